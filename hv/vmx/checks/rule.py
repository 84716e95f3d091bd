"""What a rule of VM entry is: what it looks at, what it finds, and the list of all of them in the manual's order.

    rule = rules_of(Group.HOST_STATE, "Checks on Host Control Registers, MSRs, and SSP")

    @rule("host-cr3-width", _HOST_CR3)
    def cr3(entry: Entry) -> Finding:
        '''No bit of CR3 beyond the physical-address width is 1.'''

The docstring is the rule, in the manual's words as far as they are short. The fields named are all that the function
reads (`tests/vmx/checks/` sees to that), so a rule need not run again while none of them was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple, Protocol

from hv.machine.faults import BusError
from hv.spec.exits import EntryFailure
from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    NO_VMCS,
    EntryControls,
    ExitControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from hv.spec.x86 import Cr4, Rflags
from hv.vmx.capabilities import PROCESSOR, Capabilities

# Plain integers: `&` with an IntFlag would build an enum member each time, and naming one costs a call.
_SECONDARY = PrimaryControls.ACTIVATE_SECONDARY_CONTROLS.value
_TERTIARY = PrimaryControls.ACTIVATE_TERTIARY_CONTROLS.value
_UNRESTRICTED = SecondaryControls.UNRESTRICTED_GUEST.value
_HOST_64, _IA32E = ExitControls.HOST_ADDRESS_SPACE_SIZE.value, EntryControls.IA32E_MODE_GUEST.value
_VM, _LA57, _CET, _LAM, _VALID = (Rflags.VM.value, Cr4.LA57.value, Cr4.CET.value, Cr4.LAM_SUP.value, 1 << 31)
_F, _CR4_FIXED1 = VmcsField, Msr.VMX_CR4_FIXED1
PIN, PRIMARY, SECONDARY = _F.PIN_BASED_CONTROLS, _F.PRIMARY_PROC_CONTROLS, _F.SECONDARY_PROC_CONTROLS
TERTIARY, EXIT, ENTRY = _F.TERTIARY_PROC_CONTROLS, _F.VM_EXIT_CONTROLS, _F.VM_ENTRY_CONTROLS
INJECTION, GUEST_CR0, GUEST_CR4 = _F.VM_ENTRY_INTERRUPTION_INFO, _F.GUEST_CR0, _F.GUEST_CR4
GUEST_RFLAGS = _F.GUEST_RFLAGS


class Group(Enum):
    """What the manual checks together; the value is what people read."""

    EXECUTION_CONTROLS = "VM-execution controls"
    EXIT_CONTROLS = "VM-exit controls"
    ENTRY_CONTROLS = "VM-entry controls"
    HOST_STATE = "host state"
    GUEST_STATE = "guest state"


class Memory(Protocol):
    """Physical memory: what `PhysicalMemory` is."""

    def read(self, spa: int, size: int) -> bytes: ...


class Entry:
    """One VM entry that is tried: the VMCS's fields, the processor, and what else the checks depend on.

    *values* has every field. *memory* None means that nobody can look: rules that must say so. *ia32e_now*: the
    processor that executes VMLAUNCH is in IA-32e mode. It is never in system-management mode.
    """

    __slots__ = ("canonical_half", "cet", "current_vmcs", "entry", "exit", "host_64", "ia32e", "ia32e_now", "injection",
                 "masks_addresses", "memory", "memory_was_read", "msrs", "physical_bits", "pin", "primary", "processor",
                 "secondary", "tertiary", "unrestricted", "values", "virtual_8086")

    def __init__(self, values: Mapping[VmcsField, int], processor: Capabilities = PROCESSOR,
                 memory: Memory | None = None, ia32e_now: bool = True, current_vmcs: int = NO_VMCS) -> None:
        self.values, self.processor, self.memory = values, processor, memory
        self.ia32e_now, self.current_vmcs = ia32e_now, current_vmcs
        self.physical_bits = processor.physical_bits
        self.msrs: Mapping[int, int] = processor.msrs
        self.memory_was_read = False
        may_be_set = self.msrs[_CR4_FIXED1]
        self.cet, self.masks_addresses = bool(may_be_set & _CET), bool(may_be_set & _LAM)
        self.canonical_half = 1 << (56 if may_be_set & _LA57 else 47)
        self.pin, self.exit, self.entry = int(values[PIN]), int(values[EXIT]), int(values[ENTRY])
        self.primary = primary = int(values[PRIMARY])
        self.secondary = int(values[SECONDARY]) if primary & _SECONDARY else 0
        self.tertiary = values[TERTIARY] if primary & _TERTIARY else 0
        injection = values[INJECTION]
        self.injection = injection if injection & _VALID else 0
        self.host_64, self.ia32e = bool(self.exit & _HOST_64), bool(self.entry & _IA32E)
        self.unrestricted = bool(self.secondary & _UNRESTRICTED)
        self.virtual_8086 = bool(values[GUEST_RFLAGS] & _VM)

    def load(self, spa: int, size: int) -> int | None:
        """The little-endian integer at *spa*, all ones where there is no RAM; None when there is no memory at all."""
        self.memory_was_read = True
        if self.memory is None:
            return None
        try:
            return int.from_bytes(self.memory.read(spa, size), "little")
        except BusError:
            return (1 << 8 * size) - 1

    def with_values(self, changes: Mapping[VmcsField, int]) -> Entry:
        """The same attempt with some fields changed."""
        return Entry({**self.values, **changes}, self.processor, self.memory, self.ia32e_now, self.current_vmcs)


class Broken(NamedTuple):
    """A rule does not hold: what is there, what must be, and the smallest change of fields that makes it hold."""

    found: str
    required: str
    fix: dict[VmcsField, int]


class Unchecked(NamedTuple):
    """Nobody can tell whether a rule holds."""

    why: str


Finding = Broken | Unchecked | None
Check = Callable[[Entry], Finding]
NO_MEMORY = Unchecked("the rule reads physical memory, and there is none to read")

# What a rule reads beside the fields that it is about, by the attribute of `Entry` it asks.
BY_SECONDARY, BY_TERTIARY = (PRIMARY, SECONDARY), (PRIMARY, TERTIARY)
BY_INJECTION = (INJECTION,)


class Rule(NamedTuple):
    """One check of the manual. *fields* are what it is about, *when* the other fields that decide whether it applies.

    *qualification* is the exit qualification when it fails (guest state only).
    """

    id: str
    group: Group
    heading: str
    fields: tuple[VmcsField, ...]
    when: tuple[VmcsField, ...]
    text: str
    check: Check
    qualification: EntryFailure
    reads_memory: bool

    @property
    def reads(self) -> tuple[VmcsField, ...]:
        """Every field that the rule depends on."""
        return (*self.fields, *(field for field in self.when if field not in self.fields))


RULES: list[Rule] = []
_IDS: set[str] = set()
Register = Callable[[Check], Check]


class RulesOf:
    """Registers the rules of one heading, in the order in which they are written."""

    def __init__(self, group: Group, heading: str, qualification: EntryFailure = EntryFailure.GUEST_STATE) -> None:
        self.group, self.heading, self.qualification = group, heading, qualification

    def __call__(self, id: str, *fields: VmcsField, when: tuple[VmcsField, ...] = (), text: str = "",
                 reads_memory: bool = False) -> Register:
        """Register a rule called *id* about *fields*; a second one of that name is an error at import.

        *text* stands for the docstring where one function makes the rules of several registers.
        """
        def register(check: Check) -> Check:
            if id in _IDS:
                raise TypeError(f"there are two rules called {id}")
            _IDS.add(id)
            words = text or check.__doc__ or ""
            RULES.append(Rule(id, self.group, self.heading, fields, when, " ".join(words.split()), check,
                              self.qualification, reads_memory))
            return check
        return register


rules_of = RulesOf
