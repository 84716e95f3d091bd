"""A hypervisor that is machine code, on the box of `vcpu_box.py`: its registers and its guest's take turns in one vcpu.

The hypervisor is 64-bit code at `CODE`; its VM exits come to `HOST`, its guest starts at `GUEST`. All of them share the
page tables. `fields` is what the hypervisor's own VMWRITEs put into its VMCS, from a table in memory.
"""

from __future__ import annotations

from hv.machine.faults import GuestFault
from hv.machine.idt import exception
from hv.machine.traps import Trap
from hv.spec.vmcs import (
    NO_VMCS,
    TRUE_ENTRY_DEFAULT1,
    TRUE_EXIT_DEFAULT1,
    TRUE_PIN_DEFAULT1,
    TRUE_PRIMARY_DEFAULT1,
    EntryControls,
    ExitControls,
    PrimaryControls,
    VmcsField,
)
from hv.spec.x86 import Vector
from hv.vmx.capabilities import REVISION_ID
from hv.vmx.controls import Controls
from hv.vmx.events.delivery import deliver
from hv.vmx.exit import VmExit
from hv.vmx.intercepts import BY_TRAP
from hv.vmx.intercepts.operands import advance, length_of
from hv.vmx.intercepts.undefined import undefined_here
from hv.vmx.root_operation.instructions import VmxInstructions
from hv.vmx.root_operation.operation import VmxMode, VmxOperation
from hv.vmx.root_operation.transitions import VmxTransitions
from tests.machine.engine_box import CODE, GDT, PML4
from tests.vmx.vcpu_box import IDT, VcpuBox

F = VmcsField
HOST, GUEST = 0x12000, 0x14000
HOST_STACK, GUEST_STACK, RESULTS = 0x2F000, 0x2E000, 0x20000
VMXON, VMCS, OTHER_VMCS, POINTERS, WRITES, MSR_AREA = 0x70000, 0x71000, 0x72000, 0x73000, 0x74000, 0x76000
VMXON_AT, VMCS_AT, OTHER_AT = POINTERS, POINTERS + 8, POINTERS + 16     # where the three pointers lie
COUNT, LOG = RESULTS, RESULTS + 0x10                                    # the exits that `HANDLER` saw
FLAGS, ERROR = RESULTS + 0x800, RESULTS + 0x808                         # what a failed VM entry left

ENTER = f"""
    mov rax, cr4
    or rax, 0x2000
    mov cr4, rax
    mov ecx, 0x3A
    mov eax, 5
    xor edx, edx
    wrmsr
    mov rbx, {POINTERS}
    vmxon qword ptr [rbx]
"""
LOAD = f"""
    vmclear qword ptr [rbx + 8]
    vmptrld qword ptr [rbx + 8]
    mov rsi, {WRITES}
    mov rcx, [rsi]
next_field:
    add rsi, 16
    mov rax, [rsi]
    vmwrite rax, qword ptr [rsi + 8]
    jbe failed
    dec rcx
    jnz next_field
"""
FAILED = f"""
failed:
    pushfq
    pop qword ptr [{FLAGS}]
    mov eax, 0x4400
    vmread qword ptr [{ERROR}], rax
    hlt
"""
LAUNCH = ENTER + LOAD + "    vmlaunch\n" + FAILED

# Keeps the exit reasons; steps over CPUID, and stops at anything else.
HANDLER = f"""
    push rax
    push rbx
    push rcx
    mov eax, 0x4402
    vmread rbx, rax
    mov rcx, [{COUNT}]
    mov [rcx*8 + {LOG}], rbx
    inc qword ptr [{COUNT}]
    cmp rbx, 10
    jne stop
    mov eax, 0x440C
    vmread rbx, rax
    mov eax, 0x681E
    vmread rcx, rax
    add rcx, rbx
    vmwrite rax, rcx
    pop rcx
    pop rbx
    pop rax
    vmresume
{FAILED}
stop:
    hlt
"""


def valid_fields() -> dict[VmcsField, int]:
    """A 64-bit guest at `GUEST`, and a 64-bit host at `HOST`."""
    fields = {
        F.PIN_BASED_CONTROLS: TRUE_PIN_DEFAULT1,
        F.PRIMARY_PROC_CONTROLS: TRUE_PRIMARY_DEFAULT1 | PrimaryControls.HLT_EXITING,
        F.VM_EXIT_CONTROLS: TRUE_EXIT_DEFAULT1 | ExitControls.HOST_ADDRESS_SPACE_SIZE,
        F.VM_ENTRY_CONTROLS: TRUE_ENTRY_DEFAULT1 | EntryControls.IA32E_MODE_GUEST,
        F.VMCS_LINK_POINTER: NO_VMCS,
        F.HOST_CR0: 0x80010033, F.HOST_CR3: PML4, F.HOST_CR4: 0x2620, F.HOST_CS_SELECTOR: 0x08,
        F.HOST_SS_SELECTOR: 0x10, F.HOST_DS_SELECTOR: 0x10, F.HOST_ES_SELECTOR: 0x10, F.HOST_TR_SELECTOR: 0x20,
        F.HOST_TR_BASE: 0x8000, F.HOST_GDTR_BASE: GDT, F.HOST_IDTR_BASE: IDT, F.HOST_RSP: HOST_STACK, F.HOST_RIP: HOST,
        F.GUEST_CR0: 0x80010033, F.GUEST_CR3: PML4, F.GUEST_CR4: 0x2620, F.GUEST_DR7: 0x400,
        F.GUEST_RSP: GUEST_STACK, F.GUEST_RIP: GUEST, F.GUEST_RFLAGS: 2, F.GUEST_GDTR_BASE: GDT,
        F.GUEST_GDTR_LIMIT: 0x3F, F.GUEST_IDTR_BASE: IDT, F.GUEST_IDTR_LIMIT: 0xFFF,
        F.GUEST_LDTR_ACCESS_RIGHTS: 1 << 16,
        F.GUEST_TR_SELECTOR: 0x20, F.GUEST_TR_BASE: 0x8000, F.GUEST_TR_LIMIT: 0x67, F.GUEST_TR_ACCESS_RIGHTS: 0x8B,
        F.GUEST_CS_SELECTOR: 0x08, F.GUEST_CS_LIMIT: 0xFFFF_FFFF, F.GUEST_CS_ACCESS_RIGHTS: 0xA09B,
    }
    for name in ("SS", "DS", "ES", "FS", "GS"):
        fields |= {F[f"GUEST_{name}_SELECTOR"]: 0x10, F[f"GUEST_{name}_LIMIT"]: 0xFFFF_FFFF,
                   F[f"GUEST_{name}_ACCESS_RIGHTS"]: 0xC093}
    return fields


class RootBox(VcpuBox):
    """`self.cpu` is the vcpu, `operation` its VMX operation; `exits` are the VM exits, in order."""

    def __init__(self, bits: int = 64, user: bool = False) -> None:
        super().__init__()
        self.host_bits = bits
        self.operation = VmxOperation(self.memory, cached=self.cached)
        self.cpu = self.vcpu(bits, user)
        self.cpu.state.cr4 &= ~0x2000
        self.transitions = VmxTransitions(self.operation, self.cpu)
        self.cpu.on_exit = self._leave
        self.instructions = VmxInstructions(self.transitions, self.cpu.memory)
        self.fields = valid_fields()
        self.stopped = False
        for page in (VMXON, VMCS, OTHER_VMCS):
            self.memory.write_u32(page, REVISION_ID)
        for place, pointer in ((VMXON_AT, VMXON), (VMCS_AT, VMCS), (OTHER_AT, OTHER_VMCS)):
            self.memory.write_u64(place, pointer)

    def start(self, host: str, guest: str = "hlt", handler: str = "", bits: int = 64) -> None:
        """Run the hypervisor *host* until it halts, or faults where nobody handles it; the guest is of *bits*."""
        self.put(host, self.host_bits, CODE)
        self.put(handler or (HANDLER if self.host_bits == 64 else "hlt"), self.host_bits, HOST)
        self.put(guest, bits, GUEST)
        self.memory.write_u64(WRITES, len(self.fields))
        for number, (field, value) in enumerate(self.fields.items(), 1):
            self.memory.write_u64(WRITES + 16 * number, field)
            self.memory.write_u64(WRITES + 16 * number + 8, value)
        self.resume()

    def in_root(self) -> None:
        """VMX operation has begun, and the VMCS has `fields`: for a hypervisor that shall do something else."""
        self.operation.vmxon(VMXON)
        self.operation.vmclear(VMCS)
        self.operation.vmptrld(VMCS)
        for field, value in self.fields.items():
            self.operation.vmwrite(field, value)
        self.cpu.state.cr4 |= 0x2000

    def resume(self, ticks: int = 200_000) -> None:
        """Go on from where it stopped."""
        until, self.stopped = self.clock.tsc + ticks, False
        while not self.stopped and self.clock.tsc < until and self.operation.mode is not VmxMode.ABORTED:
            if self.operation.mode is VmxMode.NON_ROOT:
                self.cpu.run(until)
            else:
                self.engine.on_trap = self._root_trap
                if not self.engine.run(self.cpu.state, until):
                    self.clock.counter.done = max(self.clock.tsc, until)    # the block that would pass it waits

    def _leave(self, exit: VmExit) -> bool:
        self.exits.append(exit)
        return self.transitions.leave(exit)

    # --- root operation ------------------------------------------------------------------------------------

    def _root_trap(self, trap: Trap, detail: int) -> bool:
        try:
            self._in_root(trap, detail)
        except GuestFault as fault:
            self.stopped = deliver(self.cpu, exception(fault)) is not None
        return not self.stopped and self.engine.on_trap == self._root_trap

    def _in_root(self, trap: Trap, detail: int) -> None:
        state, msrs = self.cpu.state, self.transitions.msrs
        self.cpu.controls = Controls(self.cpu.vmcs.read)
        if self.operation.mode is VmxMode.OFF:
            self.cpu.controls.cr_fixed = {0: 0, 4: 0}       # bits are fixed in VMX operation only
        if trap is Trap.HLT:
            self.stopped = True
        elif trap is Trap.RDMSR:
            value = msrs.read(state.ecx)
            state.rax, state.rdx = value & 0xFFFF_FFFF, value >> 32
            advance(self.cpu, length_of(self.cpu))
        elif trap is Trap.WRMSR:
            msrs.write(state.ecx, state.edx << 32 | state.eax)
            advance(self.cpu, length_of(self.cpu))
        elif trap is Trap.EXCEPTION and detail == Vector.UD:
            decoded = undefined_here(self.cpu)
            if decoded is None:
                raise GuestFault(Vector.UD)
            self.instructions.execute(decoded)
        else:
            self.others(BY_TRAP[trap](self.cpu, detail))

    def others(self, exit: VmExit | None) -> None:
        """What is neither of these: it may be done here as in non-root operation, unless it would exit."""
        assert exit is None, "a VM exit in root operation"

    # --- what the machine code left in memory ---------------------------------------------------------------

    def result(self, place: int) -> int:
        """The 64-bit word at *place*."""
        return self.memory.read_u64(place)

    @property
    def log(self) -> list[int]:
        """The exit reasons that `HANDLER` read."""
        return [self.result(LOG + 8 * number) for number in range(self.result(COUNT))]
