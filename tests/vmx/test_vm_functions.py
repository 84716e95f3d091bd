"""VMFUNC by machine code: EPTP switching without an exit, and everything that is none."""

from __future__ import annotations

import pytest

from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.vmx.translation.ept import EptTables
from hv.vmx.vcpu import Vcpu
from tests.machine.engine_box import DATA
from tests.proves import proves
from tests.vmx.vcpu_box import ALL, CODE, VcpuBox, vector_at

LIST, OTHER = 0x72000, DATA + 0x1000
VMFUNC = ".byte 0x0F, 0x01, 0xD4"
ROWS = ("instruction/VMFUNC", "control/SecondaryControls.ENABLE_VM_FUNCTIONS", "control/VmFunctions.EPTP_SWITCHING")


def another_view(box: VcpuBox) -> EptTables:
    """Tables in which DATA is another page."""
    free = iter(range(0x3A0000, 0x400000, 4096))
    tables = EptTables(box.memory, lambda: next(free), lambda spa: None)
    for page in range(0x300):
        tables.map(page << 12, page << 12, ALL)
    tables.map(DATA, OTHER, ALL)
    return tables


def switching(box: VcpuBox, source: str, user: bool = False, functions: int = 1, **registers: int) -> Vcpu:
    """A vcpu whose list has the box's tables as entry 0 and the other view as entry 511."""
    box.memory.write_u64(DATA, 1), box.memory.write_u64(OTHER, 2)
    box.memory.write_u64(LIST, box.ept.eptp.raw), box.memory.write_u64(LIST + 8 * 511, another_view(box).eptp.raw)
    vcpu = box.vcpu(user=user)
    vcpu.vmcs.write(VmcsField.EPTP_LIST_ADDRESS, LIST)
    vcpu.vmcs.write(VmcsField.VM_FUNCTION_CONTROLS, functions)
    vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS,
                    vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) | SecondaryControls.ENABLE_VM_FUNCTIONS)
    box.put(source)
    for name, value in ({"rbx": DATA} | registers).items():
        setattr(vcpu.state, name, value)
    return vcpu


@proves(*ROWS)
@pytest.mark.parametrize("user", [False, True])
def test_a_guest_goes_from_one_view_of_memory_to_the_other(box, user):
    """SDM "EPTP Switching": at any privilege level, with no exit; the VMCS has the new pointer and its index."""
    vcpu = switching(box, f"mov rsi, [rbx]; {VMFUNC}; mov rdi, [rbx]; mov ecx, 0; {VMFUNC}; mov rdx, [rbx]; cpuid",
                     user, rcx=511)
    box.go(vcpu)
    assert [exit.reason for exit in box.exits] == [ExitReason.CPUID]
    assert (vcpu.state.rsi, vcpu.state.rdi, vcpu.state.rdx) == (1, 2, 1)
    assert vcpu.vmcs.read(VmcsField.EPT_POINTER) == box.ept.eptp.raw


@proves(*ROWS)
def test_the_vmcs_shows_which_entry_is_in_use(box):
    vcpu = switching(box, f"{VMFUNC}; hlt", rcx=511)
    box.go(vcpu)
    assert vcpu.vmcs.read(VmcsField.EPTP_INDEX) == 511
    assert vcpu.vmcs.read(VmcsField.EPT_POINTER) == box.memory.read_u64(LIST + 8 * 511)


@proves(*ROWS, "exit/VMFUNC")
@pytest.mark.parametrize(("registers", "functions", "listed"), [
    ({"rcx": 512}, 1, None), ({"rcx": 1}, 1, 0), ({"rcx": 1}, 1, 0x27), ({"rcx": 0}, 0, None),
    ({"rax": 1}, 1, None), ({"rax": 63}, 1, None), ({"rcx": 1 << 31}, 1, None)],
    ids=["beyond-the-list", "no-pointer", "no-valid-pointer", "not-enabled", "another-function", "function-63",
         "far-beyond"])
def test_a_function_that_fails_exits(box, registers, functions, listed):
    """SDM: VM exit 59, with nothing changed."""
    vcpu = switching(box, f"{VMFUNC}; hlt", functions=functions, **registers)
    if listed is not None:
        box.memory.write_u64(LIST + 8, listed)
    box.go(vcpu)
    exit = box.exits[0]
    assert (exit.reason, exit.qualification, exit.instruction_length) == (ExitReason.VMFUNC, 0, 3)
    assert (vcpu.state.rip, vcpu.vmcs.read(VmcsField.EPT_POINTER)) == (CODE, box.ept.eptp.raw)


@proves(*ROWS)
@pytest.mark.parametrize("case", ["control-off", "leaf-64", "leaf-large"])
def test_vmfunc_is_undefined(box, case):
    """SDM: without the control, and for a leaf of 64 and above."""
    vcpu = switching(box, f"{VMFUNC}; hlt", rax={"leaf-64": 64, "leaf-large": 0xFFFF_FFFF}.get(case, 0))
    if case == "control-off":
        vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS, vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS)
                        & ~SecondaryControls.ENABLE_VM_FUNCTIONS)
    box.go(vcpu)
    assert vector_at(vcpu) == 6


def test_a_list_outside_memory_holds_no_pointer(box):
    vcpu = switching(box, f"{VMFUNC}; hlt")
    vcpu.vmcs.write(VmcsField.EPTP_LIST_ADDRESS, 1 << 40)
    box.go(vcpu)
    assert box.exits[0].reason is ExitReason.VMFUNC
