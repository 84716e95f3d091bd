"""What can happen, one class per fact, in the manuals' words.

Rooms emit these; listeners format them. Where it happened (partition, VP) and when is on the `Record`, so an event
names a partition only when it is another one than who ran. A VM exit is no class here: vmx's `VmExit` is the event.
"""

from __future__ import annotations

from dataclasses import dataclass

# --- Virtual processors --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VmEntry:
    """The guest runs on from *rip*."""

    rip: int


@dataclass(frozen=True, slots=True)
class EntryFailed:
    """VM entry was refused by *rule*; *reason* is 7 or 8 (VMfail) or an exit reason with bit 31."""

    reason: int
    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class VpSwitch:
    """From here on this VP of this partition runs."""

    partition: int
    vp: int


@dataclass(frozen=True, slots=True)
class VpHalted:
    """The VP waits for an interrupt."""


@dataclass(frozen=True, slots=True)
class VpResumed:
    """Something woke the VP."""

    why: str


@dataclass(frozen=True, slots=True)
class VpStarted:
    """The VP begins at *rip* (SIPI, or a StartVirtualProcessor hypercall)."""

    rip: int


@dataclass(frozen=True, slots=True)
class VpEnded:
    """The VP will never run again."""

    why: str


@dataclass(frozen=True, slots=True)
class GuestEnded:
    """The partition has nothing more to run."""

    why: str


# --- Instructions the hypervisor answered --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cpuid:
    """A partition asked CPUID and got *answer* (EAX, EBX, ECX, EDX)."""

    leaf: int
    subleaf: int
    answer: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class MsrRead:
    """RDMSR gave *value*."""

    msr: int
    value: int


@dataclass(frozen=True, slots=True)
class MsrWrite:
    """WRMSR stored *value*."""

    msr: int
    value: int


@dataclass(frozen=True, slots=True)
class CrWrite:
    """MOV to CR*number*: the guest wrote *value*."""

    number: int
    value: int


@dataclass(frozen=True, slots=True)
class PortIo:
    """IN or OUT of *size* bytes; *value* is what went out or came back."""

    port: int
    size: int
    write: bool
    value: int


@dataclass(frozen=True, slots=True)
class MmioAccess:
    """A load or store of *size* bytes in a device's page; *value* is what went out or came back."""

    gpa: int
    size: int
    write: bool
    value: int


@dataclass(frozen=True, slots=True)
class Hypercall:
    """A hypercall was done, with *status*; *reps* is the reps completed, 0 for a simple call."""

    code: int
    control: int
    input_gpa: int
    output_gpa: int
    status: int
    reps: int


@dataclass(frozen=True, slots=True)
class Fault:
    """The guest gets an exception: its own mistake. *address* is CR2 of a page fault."""

    vector: int
    error_code: int | None
    address: int | None


# --- Interrupts ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InterruptRequested:
    """*source* asked this partition's APIC for *vector*: now in IRR."""

    vector: int
    source: str


@dataclass(frozen=True, slots=True)
class InterruptRouted:
    """A device's interrupt goes to *vector* of *partition*, *vp*."""

    source_id: int
    vector: int
    partition: int
    vp: int


@dataclass(frozen=True, slots=True)
class IpiSent:
    """The ICR was written: *vector* by *delivery_mode* to *destination* (APIC id, or logical)."""

    vector: int
    delivery_mode: int
    destination: int


@dataclass(frozen=True, slots=True)
class InterruptAcknowledged:
    """*vector* moved from IRR to ISR."""

    vector: int


@dataclass(frozen=True, slots=True)
class Injected:
    """VM entry delivers *vector*; *kind* is an InterruptionType."""

    vector: int
    kind: int


@dataclass(frozen=True, slots=True)
class InterruptEnded:
    """EOI of *vector*."""

    vector: int


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """*source* (APIC timer, stimer0.., PIT) is due; *due_tsc* is when it should have been."""

    source: str
    due_tsc: int


# --- IOMMU ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dma:
    """A device's access passed the IOMMU and reached *spa*."""

    source_id: int
    iova: int
    size: int
    write: bool
    spa: int


@dataclass(frozen=True, slots=True)
class DmaFault:
    """The IOMMU refused a device's access; *reason* is the fault reason of VT-d."""

    source_id: int
    iova: int
    write: bool
    reason: int
    text: str


@dataclass(frozen=True, slots=True)
class InterruptRemapped:
    """The IOMMU turned handle *index* of *source_id* into *vector* for *destination*."""

    source_id: int
    index: int
    vector: int
    destination: int


@dataclass(frozen=True, slots=True)
class InterruptRemapFault:
    """The IOMMU refused a device's interrupt."""

    source_id: int
    index: int
    reason: int
    text: str


@dataclass(frozen=True, slots=True)
class DeviceAttached:
    """Device *source_id* now translates through the domain of *partition*."""

    source_id: int
    partition: int


@dataclass(frozen=True, slots=True)
class DeviceDetached:
    """Device *source_id* belongs to nobody: every access faults."""

    source_id: int
    partition: int


# --- SynIC ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessagePosted:
    """HvPostMessage queued a message of *size* payload bytes."""

    connection: int
    message_type: int
    size: int


@dataclass(frozen=True, slots=True)
class MessageDelivered:
    """A message is in the slot of *sint*; *sender* is a port or partition id, 0 for a timer."""

    sint: int
    message_type: int
    sender: int


@dataclass(frozen=True, slots=True)
class MessagePending:
    """The slot of *sint* is occupied: the message waits for EOM."""

    sint: int
    message_type: int


@dataclass(frozen=True, slots=True)
class EventSignaled:
    """HvSignalEvent set *flag*."""

    connection: int
    flag: int


@dataclass(frozen=True, slots=True)
class EventDelivered:
    """*flag* of *sint* went from 0 to 1."""

    sint: int
    flag: int


@dataclass(frozen=True, slots=True)
class InterceptSent:
    """The parent is asked: VP *vp* of partition *child* waits."""

    message_type: int
    child: int
    vp: int


@dataclass(frozen=True, slots=True)
class InterceptCompleted:
    """The parent has answered: VP *vp* of partition *child* runs on."""

    message_type: int
    child: int
    vp: int


# --- Partitions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartitionCreated:
    """*partition* exists, without memory or VPs."""

    partition: int
    parent: int


@dataclass(frozen=True, slots=True)
class PartitionNamed:
    """*partition* is called *name* by those who manage it."""

    partition: int
    name: str


@dataclass(frozen=True, slots=True)
class PartitionInitialized:
    """*partition* is active."""

    partition: int


@dataclass(frozen=True, slots=True)
class PartitionFinalized:
    """*partition* can only be torn down from here."""

    partition: int


@dataclass(frozen=True, slots=True)
class PartitionDeleted:
    """*partition* is gone."""

    partition: int


@dataclass(frozen=True, slots=True)
class MemoryDeposited:
    """*count* pages went into the pool of *partition* (negative: withdrawn)."""

    partition: int
    count: int


@dataclass(frozen=True, slots=True)
class VpCreated:
    """VP *vp* of *partition* exists."""

    partition: int
    vp: int


@dataclass(frozen=True, slots=True)
class VpDeleted:
    """VP *vp* of *partition* is gone."""

    partition: int
    vp: int


@dataclass(frozen=True, slots=True)
class PagesMapped:
    """*count* pages from *gpa* of *partition* are backed; *rights* are EptRights."""

    partition: int
    gpa: int
    count: int
    rights: int


@dataclass(frozen=True, slots=True)
class PagesUnmapped:
    """*count* pages from *gpa* of *partition* are backed no more."""

    partition: int
    gpa: int
    count: int


@dataclass(frozen=True, slots=True)
class OverlayMoved:
    """The overlay called *name* (hypercall page, SIMP, ...) covers *gpa*, or nothing when None."""

    name: str
    gpa: int | None


@dataclass(frozen=True, slots=True)
class GuestCrashed:
    """The guest reported its own crash through the crash MSRs."""

    parameters: tuple[int, int, int, int, int]
    text: str


# --- VMBus and devices ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelChanged:
    """VMBus channel *channel* of *interface* went from *before* to *after*."""

    channel: int
    interface: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class PacketSent:
    """A packet of *size* bytes went into a ring; *direction* is "to child" or "to parent"."""

    channel: int
    direction: str
    size: int


@dataclass(frozen=True, slots=True)
class SerialOutput:
    """The guest's serial port sent *text*."""

    text: str


@dataclass(frozen=True, slots=True)
class DeviceLog:
    """A device or service of the root says something an engineer may want to read."""

    device: str
    text: str


@dataclass(frozen=True, slots=True)
class VmStateChanged:
    """VMMS moved the virtual machine *name* from *before* to *after*."""

    name: str
    before: str
    after: str
