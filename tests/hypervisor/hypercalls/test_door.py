"""The hypercall door: every refusal of TLFS "Hypercall Interface" has its status."""

import pytest

from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.hypercalls.registry import hypercall as declare
from hv.machine.faults import NestedFault
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.memory import WithdrawMemoryInput
from hv.spec.hypercalls.messages import SignalEventInput
from hv.spec.hypercalls.partitions import PartitionInput
from hv.spec.hypercalls.registers import RegisterName, VpRegistersInput
from hv.spec.hypercalls.vps import DeleteVpInput
from hv.trace.events import Hypercall
from tests.hypervisor.fakes import Machine

C = HypercallCode
IN, OUT = 0x4000, 0x5000


@pytest.fixture
def machine():
    return Machine()


def call(machine, vp, control, input_gpa=IN, output_gpa=OUT):
    result = HypercallResult(hypercall(machine.hypervisor, vp, int(control), input_gpa, output_gpa))
    return HvStatus(result.status), result.reps_complete


def control(code, **fields):
    return HypercallControl(call_code=code, **fields).raw


REFUSED = [
    ("unknown-code", 0xFFF, HvStatus.INVALID_HYPERCALL_CODE),
    ("unknown-high-code", 0x7FFF, HvStatus.INVALID_HYPERCALL_CODE),
    ("unknown-extended-code", 0xFFFF, HvStatus.INVALID_HYPERCALL_CODE),
    ("extended-code-that-is-not-offered", 0x8002, HvStatus.INVALID_HYPERCALL_CODE),
    ("reserved-bits-30-27", control(C.NOTIFY_LONG_SPIN_WAIT, fast=1) | 1 << 27, HvStatus.INVALID_HYPERCALL_INPUT),
    ("reserved-bits-47-44", control(C.NOTIFY_LONG_SPIN_WAIT, fast=1) | 1 << 44, HvStatus.INVALID_HYPERCALL_INPUT),
    ("reserved-bits-63-60", control(C.NOTIFY_LONG_SPIN_WAIT, fast=1) | 1 << 63, HvStatus.INVALID_HYPERCALL_INPUT),
    ("nested", control(C.NOTIFY_LONG_SPIN_WAIT, fast=1, is_nested=1), HvStatus.INVALID_HYPERCALL_INPUT),
    ("simple-with-rep-count", control(C.NOTIFY_LONG_SPIN_WAIT, fast=1, rep_count=1), HvStatus.INVALID_HYPERCALL_INPUT),
    ("simple-with-rep-start", control(C.NOTIFY_LONG_SPIN_WAIT, fast=1, rep_start=1), HvStatus.INVALID_HYPERCALL_INPUT),
    ("rep-with-count-0", control(C.GET_VP_REGISTERS), HvStatus.INVALID_HYPERCALL_INPUT),
    ("rep-start-not-below-count", control(C.GET_VP_REGISTERS, rep_count=2, rep_start=2),
     HvStatus.INVALID_HYPERCALL_INPUT),
    ("variable-header", control(C.POST_MESSAGE, variable_header_size=1), HvStatus.INVALID_HYPERCALL_INPUT),
    ("fast-but-too-large", control(C.POST_MESSAGE, fast=1), HvStatus.INVALID_HYPERCALL_INPUT),
]


@pytest.mark.parametrize(("word", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_wrong_control_word(machine, word, status):
    """TLFS "Hypercall Status Codes": for child and root alike."""
    child = machine.child()
    assert call(machine, child.vps[0], word)[0] == status
    assert call(machine, machine.root_vp, word)[0] == status


def test_extended_calls_need_their_privilege(machine):
    """TLFS "Extended Hypercall Interface": known or not, they are denied; with it the query tells what there is."""
    child = machine.child()
    assert call(machine, child.vps[0], C.EXT_CALL_QUERY_CAPABILITIES)[0] == HvStatus.SUCCESS
    assert child.space.read(OUT, 8) == bytes(8)
    child.set_privileges(child.privileges & ~int(HvPrivilege.ENABLE_EXTENDED_HYPERCALLS))
    for code in (0x8001, 0x8002, 0xFFFF):
        assert call(machine, child.vps[0], code)[0] == HvStatus.ACCESS_DENIED


PLACES = [
    ("input-misaligned", C.POST_MESSAGE, IN + 4, OUT), ("input-crosses-page", C.POST_MESSAGE, IN + 0xF80, OUT),
    ("input-outside-gpa-space", C.POST_MESSAGE, 1 << 45, OUT), ("output-misaligned", C.CREATE_PARTITION, IN, OUT + 1),
    ("output-crosses-page", C.GET_MEMORY_BALANCE, IN, OUT + 0xFF8), ("output-outside", C.CREATE_PARTITION, IN, 1 << 45),
]


@pytest.mark.parametrize(("code", "input_gpa", "output_gpa"), [row[1:] for row in PLACES],
                         ids=[row[0] for row in PLACES])
def test_parameters_in_a_wrong_place_are_an_alignment_error(machine, code, input_gpa, output_gpa):
    assert call(machine, machine.root_vp, code, input_gpa, output_gpa)[0] == HvStatus.INVALID_ALIGNMENT


def test_a_list_that_does_not_fit_its_page_is_an_alignment_error(machine):
    word = control(C.MAP_GPA_PAGES, rep_count=510)
    assert call(machine, machine.root_vp, word)[0] == HvStatus.INVALID_ALIGNMENT


def test_an_address_is_ignored_in_a_direction_the_call_does_not_have(machine):
    child = machine.child()
    child.space.write(IN, SignalEventInput().pack())
    assert call(machine, child.vps[0], C.SIGNAL_EVENT, IN, 0x3)[0] == HvStatus.INVALID_CONNECTION_ID


@pytest.mark.parametrize(("code", "input_gpa", "output_gpa"), [
    (C.GET_PARTITION_ID, 0x7, OUT), (C.GET_PARTITION_ID, 1 << 60, OUT), (C.INITIALIZE_PARTITION, IN, 1 << 60),
    (C.INITIALIZE_PARTITION, IN, IN)], ids=["misaligned input", "input outside", "output outside", "overlap"])
def test_an_ignored_address_may_be_anything(machine, code, input_gpa, output_gpa):
    machine.memory.write(IN, PartitionInput(partition_id=77).pack())
    wanted = HvStatus.SUCCESS if code == C.GET_PARTITION_ID else HvStatus.INVALID_PARTITION_ID
    assert call(machine, machine.root_vp, code, input_gpa, output_gpa)[0] == wanted


@pytest.mark.parametrize(("distance", "status"), [
    (0, HvStatus.INVALID_PARAMETER), (8, HvStatus.INVALID_PARAMETER), (-8, HvStatus.INVALID_PARAMETER),
    (16, HvStatus.SUCCESS), (-16, HvStatus.SUCCESS)])
def test_input_and_output_may_touch_and_not_overlap(machine, distance, status):
    """HvCallGetMemoryBalance: 16 bytes each; TLFS "Hypercall Inputs" names no status for it."""
    machine.memory.write(IN + 16, WithdrawMemoryInput(partition_id=machine.root.id).pack())
    assert call(machine, machine.root_vp, C.GET_MEMORY_BALANCE, IN + 16, IN + 16 + distance)[0] == status


def test_the_checks_are_made_in_their_order(machine):
    """Code, shape, place, privilege, overlap, parameters: of two mistakes the earlier one is answered."""
    child = machine.child()
    vp, bad = child.vps[0], 1 << 63
    machine.memory.write(IN, b"\xff" * 64)
    assert call(machine, vp, 0x7FFF | bad, 1, 1)[0] == HvStatus.INVALID_HYPERCALL_CODE
    assert call(machine, vp, C.GET_MEMORY_BALANCE | bad, 1, 1)[0] == HvStatus.INVALID_HYPERCALL_INPUT
    assert call(machine, vp, C.GET_MEMORY_BALANCE, 1, 1)[0] == HvStatus.INVALID_ALIGNMENT
    assert call(machine, vp, C.GET_MEMORY_BALANCE, IN, IN)[0] == HvStatus.ACCESS_DENIED
    assert call(machine, machine.root_vp, C.GET_MEMORY_BALANCE, IN, IN)[0] == HvStatus.INVALID_PARAMETER
    assert call(machine, machine.root_vp, C.GET_MEMORY_BALANCE, IN, OUT)[0] == HvStatus.INVALID_PROXIMITY_DOMAIN_INFO


def test_an_unmapped_input_page_is_an_intercept_and_no_status(machine):
    child = machine.child()
    with pytest.raises(NestedFault) as caught:
        call(machine, child.vps[0], C.POST_MESSAGE, 0x100000)
    assert caught.value.gpa == 0x100000


def test_an_output_page_that_cannot_be_written_is_an_intercept_before_anything_is_done(machine):
    machine.hypervisor.owners.take(OUT >> 12)
    with pytest.raises(NestedFault):
        call(machine, machine.root_vp, C.CREATE_PARTITION)
    assert list(machine.hypervisor.partitions) == [1]


@pytest.mark.parametrize("code", [
    C.CREATE_PARTITION, C.GET_PARTITION_ID, C.GET_MEMORY_BALANCE, C.CREATE_PORT, C.CONNECT_PORT, C.MAP_DEVICE_INTERRUPT,
    C.ATTACH_DEVICE, C.DETACH_DEVICE], ids=lambda code: code.name)
def test_a_child_lacks_roots_privileges(machine, code):
    child = machine.child()
    assert call(machine, child.vps[0], code)[0] == HvStatus.ACCESS_DENIED


@pytest.mark.parametrize("code", [code for code in HYPERCALLS if HYPERCALLS[code].input and "partition_id" in
                                  HYPERCALLS[code].input.FIELDS], ids=lambda code: C(code).name)
@pytest.mark.parametrize("target", ["root", "sibling"])
def test_a_child_cannot_name_another_partition(machine, code, target):
    """Isolation: whatever the call, root and sibling are refused, and stay as they were."""
    child, sibling = machine.child(), machine.child()
    named = machine.root.id if target == "root" else sibling.id
    declaration = HYPERCALLS[code]
    child.space.write(IN, declaration.input(partition_id=named).pack())
    before = sibling.inspect()
    word = control(code, rep_count=1) if declaration.rep else code
    assert call(machine, child.vps[0], word)[0] == HvStatus.ACCESS_DENIED
    assert sibling.inspect() == before


def test_reserved_bytes_of_the_input_are_a_parameter_error(machine):
    child = machine.child()
    data = bytearray(DeleteVpInput(partition_id=child.id).pack())
    data[12] = 1
    machine.memory.write(IN, bytes(data))
    assert call(machine, machine.root_vp, C.DELETE_VP)[0] == HvStatus.INVALID_PARAMETER


def test_the_fast_form_takes_its_input_from_the_registers(machine):
    child = machine.child()
    assert call(machine, child.vps[0], 0x0001_0008, 12345, 0) == (HvStatus.SUCCESS, 0)
    fast = control(C.DEPOSIT_MEMORY, fast=1, rep_count=1)
    assert call(machine, machine.root_vp, fast, child.id, machine.fresh_page()) == (HvStatus.SUCCESS, 1)


def test_reps_completed_are_absolute_and_their_outputs_are_written(machine):
    """TLFS "Hypercall Outputs"; names of a good, an unknown and a good register."""
    child = machine.child()
    child.vps[0].regs.rip = 0xBEEF
    header = VpRegistersInput(partition_id=child.id)
    names = b"".join(RegisterName(name=name).pack() for name in (0x20010, 0x20010, 0x999, 0x20010))
    machine.memory.write(IN, header.pack() + names)
    machine.memory.write(OUT, b"\xee" * 64)
    assert call(machine, machine.root_vp, control(C.GET_VP_REGISTERS, rep_count=4, rep_start=1)) == \
        (HvStatus.INVALID_PARAMETER, 2)
    out = machine.memory.read(OUT, 64)
    assert out[:16] == out[32:48] == b"\xee" * 16
    assert out[16:32] == (0xBEEF).to_bytes(16, "little")


def test_two_handlers_for_one_code_are_an_import_error_that_names_both():
    with pytest.raises(TypeError, match=r"POST_MESSAGE has two handlers: .*post_message and .*second"):
        @declare(C.POST_MESSAGE)
        def second(call):
            return None


def test_each_call_is_an_event(machine):
    call(machine, machine.root_vp, C.GET_PARTITION_ID)
    event = machine.events(Hypercall)[-1]
    assert (event.code, event.status, event.output_gpa) == (C.GET_PARTITION_ID, HvStatus.SUCCESS, OUT)


def test_the_event_of_a_refused_call_says_why(machine):
    """The guest gets the status; the sentence is for people."""
    machine.memory.write(IN, PartitionInput(partition_id=77).pack())
    call(machine, machine.root_vp, C.INITIALIZE_PARTITION)
    call(machine, machine.root_vp, control(C.GET_VP_REGISTERS, rep_count=0))
    call(machine, machine.root_vp, C.GET_PARTITION_ID)
    assert [event.why for event in machine.events(Hypercall)[-3:]] == ["no partition 0x4d", "rep count is 0", ""]
    names = VpRegistersInput(partition_id=machine.child().id).pack() + RegisterName(name=0x999).pack()
    machine.memory.write(IN, names)
    call(machine, machine.root_vp, control(C.GET_VP_REGISTERS, rep_count=1))
    assert machine.events(Hypercall)[-1].why == "register 0x999 is unknown or not built"
