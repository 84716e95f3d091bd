"""A learner's exit handlers and hypercalls in a real machine: its VPs ask them, and it goes on with the answer.

    [piece.exits]
    CPUID = "handle_cpuid"              # function(vp, exit), which answers a verdict
    [piece.hypercalls]
    GET_VP_INDEX_FROM_APIC_ID = "get_vp_index"      # function(call), which answers the result value

A function of the piece answers in place of the hypervisor's own, towards the learner's VM only. It gets copies and says
what it would do (`sandbox/kit.py`); what it says is looked at here before anything is done, and recorded by the machine
as that of any handler. An answer that is none stops the VP, and is kept for the check `piece`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hv.hypervisor.exits.vmcall import checked_call_site
from hv.hypervisor.run import carry_out
from hv.hypervisor.verdicts import ADVANCE, RETRY, Halt, Inject, Verdict
from hv.lab.sandbox.kit import GENERAL
from hv.lab.sandbox.piece import Piece
from hv.machine.faults import GuestFault, NestedFault
from hv.platform import VirtualMachine
from hv.spec.exits import ExitReason
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.x86 import ENTRY_DELIVERS_ERROR_CODE, PAGE_SIZE
from hv.trace.events import Cpuid, Hypercall, MsrRead, MsrWrite
from hv.vmx.exit import VmExit

if TYPE_CHECKING:
    from hv.lab.exercise import PieceSetting

_FIXED = ("rip", "rflags", "cr0", "cr3", "cr4")
_FIELDS = ("qualification", "instruction_length", "guest_physical_address", "guest_linear_address",
           "interruption_info", "interruption_error_code")
_U64, _LOW = (1 << 64) - 1, 0xFFFF_FFFF
_CODE = HypercallControl(call_code=0xFFFF).raw
_LONGEST_WHY = 200


class Failure(NamedTuple):
    """Where an answer was none: what was asked, after how many VM exits, and the words about it."""

    asked: str
    position: int
    words: str


class Refused(Exception):
    """What the piece said cannot be done."""


class Handlers:
    """The piece's functions in the machine of a run. *position* says how many VM exits there were."""

    def __init__(self, piece: Piece, setting: PieceSetting, position: Callable[[], int]) -> None:
        self.piece, self.calls, self.position = piece, setting.calls, position
        self.apic_ids = setting.apic_ids
        self.exits = {ExitReason[name]: function for name, function in setting.exits.items()}
        self.hypercalls = {int(HypercallCode[name]): function for name, function in setting.hypercalls.items()}
        self.answered = 0
        self.failure: Failure | None = None

    def install(self, vm: VirtualMachine) -> None:
        """From now on the VPs of *vm* ask the piece."""
        for vp in vm.partition.vps.values():
            vp.vcpu.on_exit = partial(self._on_exit, vp, vp.vcpu.on_exit)

    def _on_exit(self, vp: Any, ours: Callable[[VmExit], bool], exit: VmExit) -> bool:
        if exit.reason in self.exits:
            handle = partial(self._handle, vp, exit)
        elif exit.reason is ExitReason.VMCALL and vp.regs.is_kernel_64 and vp.regs.rcx & _CODE in self.hypercalls:
            handle = partial(self._call, vp)
        else:
            return ours(exit)
        if vp.trace.listening:
            vp.trace.emit(exit)
        try:
            verdict = handle()
        except GuestFault as fault:
            verdict = Inject(fault.vector, fault.error_code, fault.address)
        return carry_out(vp, exit, verdict)

    def _ask(self, function: str, *arguments: Any, kit: str, doors: dict[str, Any]) -> Any:
        """The piece's answer; Refused when there is none."""
        if self.answered >= self.calls:
            raise Refused(f"asked {self.calls} times, and not again: does the guest get any further?")
        self.answered += 1
        outcome = self.piece.call(function, *arguments, kit=kit, doors=doors)
        if not outcome.returned:
            raise Refused(outcome.message)
        return outcome.value

    def _give_up(self, asked: str, words: object) -> Halt:
        failure = Failure(asked, self.position(), str(words))
        self.failure = self.failure or failure
        return Halt(f"{asked}: {failure.words}")

    # --- exits ---------------------------------------------------------------------------------------

    def _handle(self, vp: Any, exit: VmExit) -> Verdict:
        function = self.exits[exit.reason]
        before = {name: getattr(vp.regs, name) for name in GENERAL}
        fields = {"reason": exit.reason.name} | {name: getattr(exit, name) for name in _FIELDS}
        fixed = {name: getattr(vp.regs, name) & _U64 for name in _FIXED}
        try:
            said = self._ask(function, {"index": vp.index, "general": before, "fixed": fixed}, fields, kit="exit",
                             doors={"cpuid": partial(_cpuid, vp)})
            verdict, registers = _checked(function, said)
        except Refused as refused:
            return self._give_up(exit.reason.name, refused)
        for name, value in registers.items():
            setattr(vp.regs, name, value)
        if verdict is ADVANCE and vp.trace.listening:
            _tell(vp, exit, before)
        return verdict

    # --- hypercalls ----------------------------------------------------------------------------------

    def _call(self, vp: Any) -> Verdict:
        checked_call_site(vp)
        control, input_gpa, output_gpa = vp.regs.rcx, vp.regs.rdx, vp.regs.r8
        function, name = self.hypercalls[control & _CODE], HypercallCode(control & _CODE).name
        fields = {"control": control, "input_gpa": input_gpa, "output_gpa": output_gpa, "vp_index": vp.index,
                  "partition_id": vp.partition.id, "privileges": int(vp.partition.privileges),
                  "partitions": sorted(vp.hypervisor.partitions), "apic_ids": self.apic_ids or _apic_ids(vp)}
        doors = {"read": partial(_read, vp), "write": partial(_write, vp, output_gpa)}
        try:
            result = self._ask(function, fields, kit="hypercall", doors=doors)
            if type(result) is not int or not 0 <= result <= _U64:
                raise Refused(f"{function} returned {_shown(result)}; expected a result value, a number of 64 bits")
        except Refused as refused:
            return self._give_up(name, refused)
        vp.regs.rax = result
        if vp.trace.listening:
            split = HypercallResult(result)
            vp.trace.emit(Hypercall(control & _CODE, control, input_gpa, output_gpa, split.status, split.reps_complete))
        return ADVANCE


def _checked(function: str, said: Any) -> tuple[Verdict, dict[str, int]]:
    """The verdict and the registers that *said* stands for; Refused."""
    match said:
        case [["no verdict", str(words)], dict()]:
            raise Refused(f"{function} returned {words:.60}; expected a verdict, such as Advance()")
        case [list(told), dict(registers)]:
            for name, value in registers.items():
                if name not in GENERAL or type(value) is not int or not 0 <= value <= _U64:
                    raise Refused(f"{function} left no number of 64 bits in {name!r:.20}")
            return _verdict(function, told), registers
    raise Refused(f"{function} answered past its kit")


def _verdict(function: str, told: list[Any]) -> Verdict:
    match told:
        case ["Advance"]:
            return ADVANCE
        case ["Retry"]:
            return RETRY
        case ["Halt", str(why)]:
            return Halt(why[:_LONGEST_WHY])
        case ["Inject", int(vector), code, address] if not isinstance(vector, bool) and 0 <= vector < 32 \
                and _is_number(code, 32) and _is_number(address, 64):
            if (code is not None) != (vector in ENTRY_DELIVERS_ERROR_CODE):    # else VM entry fails
                raise Refused(f"vector {vector} pushes {'no' if code is not None else 'an'} error code")
            return Inject(vector, code, address)
    words = ", ".join(map(_shown, told[1:]))
    raise Refused(f"{function} returned {told[0] if told else ''!s:.20}({words}); expected a vector 0 to 31, "
                  "and numbers or None as error code and address")


def _is_number(value: Any, bits: int) -> bool:
    return value is None or (type(value) is int and 0 <= value < 1 << bits)


def _shown(value: Any) -> str:
    return f"{value:#x}" if type(value) is int else f"{value!r:.40}"


def _tell(vp: Any, exit: VmExit, before: dict[str, int]) -> None:
    """The event of what was answered, as the hypervisor's own handlers emit it."""
    regs, index = vp.regs, before["rcx"] & _LOW
    if exit.reason is ExitReason.CPUID:
        vp.trace.emit(Cpuid(before["rax"] & _LOW, index, (regs.eax, regs.ebx, regs.ecx, regs.edx)))
    elif exit.reason is ExitReason.RDMSR:
        vp.trace.emit(MsrRead(index, regs.edx << 32 | regs.eax))
    elif exit.reason is ExitReason.WRMSR:
        vp.trace.emit(MsrWrite(index, (before["rdx"] & _LOW) << 32 | before["rax"] & _LOW))


def _apic_ids(vp: Any) -> list[int]:
    """In the order of the VPs' indexes."""
    return [one.apic.apic_id for _, one in sorted(vp.partition.vps.items())]


# --- doors -----------------------------------------------------------------------------------------------


def _cpuid(vp: Any, leaf: Any, subleaf: Any = 0) -> list[int]:
    """What the partition's table holds: EAX, EBX, ECX, EDX. ValueError."""
    for name, value in (("leaf", leaf), ("subleaf", subleaf)):
        if type(value) is not int or not 0 <= value <= _LOW:
            raise ValueError(f"cpuid takes a {name} of 32 bits; found {_shown(value)}")
    return list(vp.partition.cpuid.lookup(leaf, subleaf, vp.index))


def _read(vp: Any, gpa: Any, size: Any) -> bytes:
    """*size* bytes of the guest's memory, at most a page; ValueError."""
    if type(gpa) is not int or type(size) is not int or not 0 <= size <= PAGE_SIZE or not 0 <= gpa <= _U64:
        raise ValueError(f"read takes an address and a size up to 4096; found {_shown(gpa)}, {_shown(size)}")
    return bytes(_with_memory(vp.partition.space.read, gpa, size))


def _write(vp: Any, output_gpa: int, at: Any, data: Any) -> None:
    """Store *data* at byte *at* of the output, which ends where its page does; ValueError."""
    if type(at) is not int or type(data) is not bytes or not 0 <= at <= PAGE_SIZE - output_gpa % PAGE_SIZE - len(data):
        raise ValueError("write takes a place behind the output's address and bytes, all in one page; "
                         f"found {_shown(at)}, {_shown(data)}")
    _with_memory(vp.partition.space.write, output_gpa + at, data)


def _with_memory(access: Callable[..., Any], gpa: int, what: Any) -> Any:
    try:
        return access(gpa, what)
    except NestedFault:
        raise ValueError(f"the guest has no memory at {gpa:#x}") from None
