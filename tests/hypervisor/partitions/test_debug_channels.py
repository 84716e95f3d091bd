"""Debug sessions: what a guest's debugger sends, root's side reads, and the other way round. TLFS "Debugging"."""

import pytest

from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.msrs import registry as msrs
from hv.machine.faults import GuestFault
from hv.spec.cpuid import CpuidLeaf, HvFeatures, HvPrivilege
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallResult
from hv.spec.hypercalls.debug import (
    DebugResetOptions,
    DebugRetrieveOptions,
    HvSyndbgControl,
    HvSyndbgStatus,
    OutputDebugCharacterInput,
    PostDebugDataInput,
    ResetDebugSessionInput,
    RetrieveDebugDataInput,
    RetrieveDebugDataOutput,
)
from hv.spec.hypercalls.partitions import SetPartitionPropertyInput
from hv.spec.msrs import Msr
from hv.spec.partition import PARTITION_ID_SELF, HvPartitionProperty
from hv.trace.events import DebugDataPosted
from tests.hypervisor.fakes import Machine

IN, OUT = 0x4000, 0x5000
SEND, RECEIVE, PENDING = 0x6000, 0x7000, 0x8000         # a guest's pages
CHANNEL = 7


class Bench(Machine):
    """Root and a guest; `attach` puts both on channel 7."""

    def __init__(self):
        super().__init__()
        self.guest = self.child()
        self.vp = self.guest.vps[0]

    def call(self, vp, code, input):
        vp.partition.space.write(IN, input.pack())
        return S(HypercallResult(hypercall(self.hypervisor, vp, code, IN, OUT)).status)

    def set_channel(self, partition_id, number):
        return self.call(self.root_vp, C.SET_PARTITION_PROPERTY, SetPartitionPropertyInput(
            partition_id=partition_id, property_code=HvPartitionProperty.DEBUG_CHANNEL_ID, property_value=number))

    def attach(self):
        assert self.set_channel(self.guest.id, CHANNEL) == S.SUCCESS
        assert self.set_channel(PARTITION_ID_SELF, CHANNEL) == S.SUCCESS
        return self

    def post(self, vp, data, **more):
        """Status, and the bytes for which there was no room."""
        vp.partition.space.write(OUT, b"\xee" * 4)
        status = self.call(vp, C.POST_DEBUG_DATA, PostDebugDataInput(count=len(data), data=data, **more))
        return status, int.from_bytes(vp.partition.space.read(OUT, 4), "little")

    def retrieve(self, vp, count=4088, options=0):
        """Status, data, and how many bytes remain."""
        status = self.call(vp, C.RETRIEVE_DEBUG_DATA, RetrieveDebugDataInput(count=count, options=options))
        if status != S.SUCCESS:
            return status
        out = RetrieveDebugDataOutput.parse(vp.partition.space.read(OUT, 4096))
        return out.data[: out.retrieved_count], out.remaining_count

    def waits(self):
        return self.guest.space.read(PENDING, 1) == b"\x01"


@pytest.fixture
def bench():
    return Bench()


def test_bytes_go_both_ways_in_order(bench):
    bench.attach()
    assert bench.post(bench.vp, b"hello ") == bench.post(bench.vp, b"debugger") == (S.SUCCESS, 0)
    assert bench.retrieve(bench.root_vp, 5) == (b"hello", 9)
    assert bench.retrieve(bench.root_vp) == (b" debugger", 0)
    assert bench.retrieve(bench.root_vp) == S.NO_DATA
    assert bench.post(bench.root_vp, b"break") == (S.SUCCESS, 0)
    assert bench.retrieve(bench.vp) == (b"break", 0)
    assert bench.events(DebugDataPosted)[0] == DebugDataPosted(bench.root.id, 6)


def test_the_output_of_a_retrieval_needs_no_more_than_its_page(bench):
    """Input and output fill a page each; so their pages differ, and both begin at one."""
    bench.attach()
    bench.post(bench.vp, b"x")
    assert S(HypercallResult(hypercall(bench.hypervisor, bench.root_vp, C.RETRIEVE_DEBUG_DATA, IN, OUT + 8)).status) \
        == S.INVALID_ALIGNMENT


def test_what_finds_no_room_is_left_to_the_sender(bench):
    bench.attach()
    assert bench.post(bench.vp, b"a" * 4088) == (S.SUCCESS, 0)
    assert bench.post(bench.vp, b"b" * 100) == (S.SUCCESS, 92)
    assert bench.post(bench.vp, b"c") == (S.SUCCESS, 1)
    assert bench.call(bench.vp, C.OUTPUT_DEBUG_CHARACTER, OutputDebugCharacterInput(character=0x41)) == \
        S.INSUFFICIENT_BUFFERS
    assert bench.retrieve(bench.root_vp) == (b"a" * 4088, 8)
    assert bench.retrieve(bench.root_vp) == (b"b" * 8, 0)


def test_a_look_takes_nothing(bench):
    bench.attach()
    bench.post(bench.vp, b"abc")
    assert bench.retrieve(bench.root_vp, options=DebugRetrieveOptions.TEST_ACTIVITY) == (b"", 3)
    assert bench.retrieve(bench.root_vp) == (b"abc", 0)


@pytest.mark.parametrize(("options", "to_root", "to_guest"), [
    (0, (b"out", 0), (b"in", 0)), (DebugResetOptions.PURGE_INCOMING, (b"out", 0), S.NO_DATA),
    (DebugResetOptions.PURGE_OUTGOING, S.NO_DATA, (b"in", 0)), (3, S.NO_DATA, S.NO_DATA)])
def test_a_session_is_reset_on_one_side_or_both(bench, options, to_root, to_guest):
    bench.attach()
    bench.post(bench.vp, b"out"), bench.post(bench.root_vp, b"in")
    assert bench.call(bench.vp, C.RESET_DEBUG_SESSION, ResetDebugSessionInput(options=options)) == S.SUCCESS
    assert bench.retrieve(bench.root_vp) == to_root
    assert bench.retrieve(bench.vp) == to_guest


def test_single_characters(bench):
    bench.attach()
    for character in b"ok":
        assert bench.call(bench.vp, C.OUTPUT_DEBUG_CHARACTER, OutputDebugCharacterInput(character=character)) == \
            S.SUCCESS
    assert bench.retrieve(bench.root_vp) == (b"ok", 0)
    assert bench.call(bench.vp, C.OUTPUT_DEBUG_CHARACTER, OutputDebugCharacterInput(character=256)) == \
        S.INVALID_PARAMETER


CALLS = [(C.POST_DEBUG_DATA, PostDebugDataInput), (C.RETRIEVE_DEBUG_DATA, RetrieveDebugDataInput),
         (C.RESET_DEBUG_SESSION, ResetDebugSessionInput), (C.OUTPUT_DEBUG_CHARACTER, OutputDebugCharacterInput)]


@pytest.mark.parametrize(("code", "input"), CALLS, ids=[code.name for code, _ in CALLS])
def test_who_is_not_debugged_has_no_session(bench, code, input):
    assert bench.call(bench.vp, code, input()) == S.OPERATION_DENIED
    bench.guest.set_privileges(bench.guest.privileges & ~int(HvPrivilege.DEBUGGING))
    denied = S.OPERATION_DENIED if code == C.OUTPUT_DEBUG_CHARACTER else S.ACCESS_DENIED
    assert bench.call(bench.vp, code, input()) == denied


@pytest.mark.parametrize(("code", "input"), [
    (C.POST_DEBUG_DATA, PostDebugDataInput(count=4089)), (C.POST_DEBUG_DATA, PostDebugDataInput(options=2)),
    (C.RETRIEVE_DEBUG_DATA, RetrieveDebugDataInput(count=4089)),
    (C.RETRIEVE_DEBUG_DATA, RetrieveDebugDataInput(options=4)), (C.RESET_DEBUG_SESSION,
                                                                 ResetDebugSessionInput(options=4))])
def test_options_and_counts_that_do_not_exist_are_refused(bench, code, input):
    assert bench.call(bench.attach().vp, code, input) == S.INVALID_PARAMETER


def test_a_channel_has_two_ends_and_without_the_other_is_inactive(bench):
    assert bench.set_channel(bench.guest.id, CHANNEL) == S.SUCCESS
    assert bench.post(bench.vp, b"x")[0] == S.INACTIVE
    bench.attach()
    assert bench.set_channel(bench.child().id, CHANNEL) == S.OBJECT_IN_USE
    assert bench.set_channel(PARTITION_ID_SELF, 0) == S.SUCCESS
    assert bench.post(bench.vp, b"x")[0] == S.INACTIVE
    assert bench.set_channel(bench.guest.id, 1 << 32) == S.PROPERTY_VALUE_OUT_OF_RANGE


def test_a_child_cannot_choose_its_channel(bench):
    assert bench.call(bench.vp, C.SET_PARTITION_PROPERTY, SetPartitionPropertyInput(
        partition_id=PARTITION_ID_SELF, property_code=HvPartitionProperty.DEBUG_CHANNEL_ID, property_value=CHANNEL)) \
        == S.ACCESS_DENIED


def test_each_end_costs_its_partition_a_page_until_it_leaves(bench):
    in_use = bench.guest.pool.in_use, bench.root.pool.in_use
    bench.attach().attach()
    assert (bench.guest.pool.in_use, bench.root.pool.in_use) == (in_use[0] + 1, in_use[1] + 1)
    bench.hypervisor.finalize_partition(bench.guest)
    bench.set_channel(PARTITION_ID_SELF, 0)
    bench.hypervisor.delete_vp(bench.guest, 0)
    assert (bench.guest.pool.in_use, bench.root.pool.in_use) == (0, in_use[1])
    assert bench.hypervisor.debug_channels.inspect() == {}


def test_an_empty_pool_has_no_buffer_for_an_end(bench):
    while bench.guest.pool.available:
        bench.guest.pool.allocate()
    assert bench.set_channel(bench.guest.id, CHANNEL) == S.INSUFFICIENT_MEMORY
    assert bench.hypervisor.debug_channels.number_of(bench.guest) == 0


# --- by MSR -------------------------------------------------------------------------------------------------------

def request(bench, **fields):
    """The status after a write to the control register."""
    msrs.write_msr(bench.vp, Msr.HV_SYNTH_DEBUG_CONTROL, HvSyndbgControl(**fields).raw)
    return HvSyndbgStatus(msrs.read_msr(bench.vp, Msr.HV_SYNTH_DEBUG_STATUS))


@pytest.fixture
def synthetic(bench):
    for msr, gpa in ((Msr.HV_SYNTH_DEBUG_SEND_BUFFER, SEND), (Msr.HV_SYNTH_DEBUG_RECEIVE_BUFFER, RECEIVE),
                     (Msr.HV_SYNTH_DEBUG_PENDING_BUFFER, PENDING)):
        msrs.write_msr(bench.vp, msr, gpa)
        assert msrs.read_msr(bench.vp, msr) == gpa
    return bench.attach()


def test_a_guest_sends_from_its_page_and_receives_into_one(synthetic):
    bench = synthetic
    bench.guest.space.write(SEND, b"packet")
    assert request(bench, send=1, size=6) == HvSyndbgStatus(sent=1)
    assert bench.retrieve(bench.root_vp) == (b"packet", 0)
    assert not bench.waits()
    bench.post(bench.root_vp, b"answer")
    assert bench.waits()
    assert request(bench, receive=1) == HvSyndbgStatus(received=1, size=6)
    assert bench.guest.space.read(RECEIVE, 6) == b"answer"
    assert not bench.waits()
    assert request(bench, receive=1).raw == 0


@pytest.mark.parametrize("fault", ["unmapped", "too much", "nobody"])
def test_a_request_that_cannot_be_has_status_0_and_loses_nothing(synthetic, fault):
    bench = synthetic
    bench.post(bench.root_vp, b"answer")
    if fault == "unmapped":
        msrs.write_msr(bench.vp, Msr.HV_SYNTH_DEBUG_SEND_BUFFER, 0x10_0000)
        msrs.write_msr(bench.vp, Msr.HV_SYNTH_DEBUG_RECEIVE_BUFFER, (1 << 64) - 1)
        assert request(bench, receive=1).raw == 0
    elif fault == "nobody":
        bench.set_channel(PARTITION_ID_SELF, 0)
    assert request(bench, send=1, size=0xFFFF if fault == "too much" else 4).raw == 0
    assert bench.retrieve(bench.vp) == (b"answer", 0)


def test_a_pending_page_that_is_gone_does_no_harm(synthetic):
    bench = synthetic
    bench.guest.space.unmap(PENDING >> 12)
    assert bench.post(bench.root_vp, b"x") == (S.SUCCESS, 0)
    msrs.write_msr(bench.vp, Msr.HV_SYNTH_DEBUG_PENDING_BUFFER, (1 << 64) - 1)
    assert bench.retrieve(bench.vp) == (b"x", 0)


def test_the_registers_need_their_privilege_and_the_status_is_read_only(bench):
    with pytest.raises(GuestFault):
        msrs.write_msr(bench.vp, Msr.HV_SYNTH_DEBUG_STATUS, 1)
    bench.guest.set_privileges(bench.guest.privileges & ~int(HvPrivilege.ACCESS_DEBUG_MSRS))
    for msr in range(Msr.HV_SYNTH_DEBUG_CONTROL, Msr.HV_SYNTH_DEBUG_PENDING_BUFFER + 1):
        with pytest.raises(GuestFault):
            msrs.read_msr(bench.vp, msr)


def test_debugging_is_offered_in_cpuid(bench):
    _, _, _, edx = bench.guest.cpuid.lookup(CpuidLeaf.HV_FEATURES, 0)
    assert edx & HvFeatures.GUEST_DEBUGGING_AVAILABLE
    assert edx & HvFeatures.DEBUG_REGS_AVAILABLE
