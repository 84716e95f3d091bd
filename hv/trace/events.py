"""What can happen, one class per fact, in the manuals' words.

Rooms emit these; listeners format them. Where it happened (partition, VP) and when is on the `Record`, so an event
names a partition only when it is another one than who ran. A VM exit is no class here: vmx's `VmExit` is the event.
"""

from __future__ import annotations

from enum import StrEnum

from hv.trace.event import Event

# --- Virtual processors --------------------------------------------------------------------------


class VmEntry(Event):
    """The guest runs on from *rip*."""

    rip: int


class VmEntryRefused(Event):
    """VMLAUNCH or VMRESUME of a program that is a hypervisor itself breaks *rule*; *outcome* is VMfail or a VM exit.

    *found* is for people: what stands in the VMCS.
    """

    rule: str
    outcome: str
    found: str


class VmxFailed(Event):
    """A VMX instruction of such a program failed with VM-instruction error *error*; 0 is VMfailInvalid."""

    instruction: str
    error: int


class SwitchReason(StrEnum):
    """Why the VP that ran before does not run on."""

    SLICE_OVER = "slice over"
    HALTED = "halted"
    SPINS = "spins"             # PAUSE, or HvCallNotifyLongSpinWait
    WOKEN = "woken"             # another one was, and has more right to the processor
    CAPPED = "capped"
    SUSPENDED = "suspended"     # its parent is to answer, or it stopped


class VpSwitch(Event):
    """From here on this VP of this partition runs. *why* is about the one that ran before."""

    partition: int
    vp: int
    why: SwitchReason = SwitchReason.SLICE_OVER


class VpHalted(Event):
    """The VP waits for an interrupt."""


class VpEnded(Event):
    """The VP will never run again."""

    why: str


class GuestEnded(Event):
    """The partition has nothing more to run."""

    why: str


# --- Instructions the hypervisor answered --------------------------------------------------------


class Cpuid(Event):
    """A partition asked CPUID and got *answer* (EAX, EBX, ECX, EDX)."""

    leaf: int
    subleaf: int
    answer: tuple[int, int, int, int]


class MsrRead(Event):
    """RDMSR gave *value*."""

    msr: int
    value: int


class MsrWrite(Event):
    """WRMSR stored *value*."""

    msr: int
    value: int


class MsrIgnored(Event):
    """An MSR that is not there was read as 0, or written (*write*) with *value*: its partition ignores such ones."""

    msr: int
    value: int
    write: bool


class CrWrite(Event):
    """MOV to CR*number*: the guest wrote *value*."""

    number: int
    value: int


class PortIo(Event):
    """IN or OUT of *size* bytes; *value* is what went out or came back."""

    port: int
    size: int
    write: bool
    value: int


class MmioAccess(Event):
    """A load or store of *size* bytes in a device's page; *value* is what went out or came back."""

    gpa: int
    size: int
    write: bool
    value: int


class Hypercall(Event):
    """A hypercall was done, with *status*; *reps* is the reps completed, 0 for a simple call.

    *why* is for people and empty on success: what was found and what was expected. Guests see only the status.
    """

    code: int
    control: int
    input_gpa: int
    output_gpa: int
    status: int
    reps: int
    why: str = ""


class HypercallInterrupted(Event):
    """A rep call stopped behind *done* of its *count* reps: others have their turn, then its caller goes on with it."""

    code: int
    done: int
    count: int


class DebugDataPosted(Event):
    """*size* bytes went over a debug channel to *partition*, and wait there."""

    partition: int
    size: int


class Fault(Event):
    """The guest gets an exception: its own mistake. *address* is CR2 of a page fault."""

    vector: int
    error_code: int | None
    address: int | None


# --- Interrupts ----------------------------------------------------------------------------------


class InterruptRequested(Event):
    """*source* asked this partition's APIC for *vector*: now in IRR."""

    vector: int
    source: str


class ClusterIpi(Event):
    """A VP sent *vector* to the VPs *targets* of its partition, by hypercall."""

    vector: int
    targets: tuple[int, ...]


class TranslationsFlushed(Event):
    """What the VPs *targets* had cached of linear addresses is gone; *address_space* is a CR3, None for all of them."""

    targets: tuple[int, ...]
    address_space: int | None


class InterruptRouted(Event):
    """A device's interrupt goes to *vector* of *partition*, *vp*."""

    source_id: int
    vector: int
    partition: int
    vp: int


class InterruptRetargeted(Event):
    """From now on an interrupt of device *source_id* is *vector* of the VPs *targets* of *partition*."""

    source_id: int
    vector: int
    partition: int
    targets: tuple[int, ...]


class Injected(Event):
    """The guest gets *vector*, by VM entry or by virtual-interrupt delivery; *kind* is an InterruptionType."""

    vector: int
    kind: int


# --- IOMMU ---------------------------------------------------------------------------------------


class Dma(Event):
    """A device's access passed the IOMMU and reached *spa*."""

    source_id: int
    iova: int
    size: int
    write: bool
    spa: int


class DmaFault(Event):
    """The IOMMU refused a device's access; *reason* is the fault reason of VT-d."""

    source_id: int
    iova: int
    write: bool
    reason: int
    text: str


class InterruptRemapped(Event):
    """The IOMMU turned handle *index* of *source_id* into *vector* for *destination*."""

    source_id: int
    index: int
    vector: int
    destination: int


class InterruptRemapFault(Event):
    """The IOMMU refused a device's interrupt."""

    source_id: int
    index: int
    reason: int
    text: str


class InterruptPosted(Event):
    """A unit put *vector* into the posted-interrupt descriptor at *descriptor*, and notified its processor or not.

    *partition* is the one whose own unit it was, 0 for the machine's.
    """

    partition: int
    source_id: int
    vector: int
    descriptor: int
    notified: bool


class GuestInterruptRemapped(Event):
    """The unit of *partition*'s own turned handle *index* of its device *source_id* into *vector* for *destination*."""

    partition: int
    source_id: int
    index: int
    vector: int
    destination: int


class GuestInterruptRefused(Event):
    """The unit of *partition*'s own refused an interrupt of its device *source_id*."""

    partition: int
    source_id: int
    index: int
    reason: int
    text: str


class DeviceAttached(Event):
    """Device *source_id* now translates through the domain of *partition*."""

    source_id: int
    partition: int


class DeviceDetached(Event):
    """Device *source_id* belongs to nobody: every access faults."""

    source_id: int
    partition: int


class FrameSent(Event):
    """A function of the network card sent a frame of *size* bytes; *takers* are the functions that received it."""

    source_id: int
    size: int
    takers: tuple[int, ...]


class DeviceStopped(Event):
    """Device *source_id* met what it cannot use in its partition's memory, at *address* if that was it."""

    source_id: int
    error: str
    address: int


class DeviceDomainCreated(Event):
    """*partition* has a device domain of its own making, empty."""

    partition: int
    domain: int


class DeviceDomainDeleted(Event):
    """*partition* has that domain no more."""

    partition: int
    domain: int


class DeviceInDomain(Event):
    """Device *source_id* now translates through *domain* of *partition*: 0 its own addresses, 0xFFFFFFFF nothing."""

    source_id: int
    partition: int
    domain: int


# --- SynIC ---------------------------------------------------------------------------------------


class MessagePosted(Event):
    """HvPostMessage queued a message of *size* payload bytes."""

    connection: int
    message_type: int
    size: int


class MessageDelivered(Event):
    """A message is in the slot of *sint*; *sender* is a port or partition id, 0 for a timer."""

    sint: int
    message_type: int
    sender: int


class MessagePending(Event):
    """The slot of *sint* is occupied: the message waits for EOM."""

    sint: int
    message_type: int


class EventSignaled(Event):
    """HvSignalEvent set *flag*."""

    connection: int
    flag: int


class MonitorTriggered(Event):
    """*trigger* (0..127) of a monitor page was pending for its latency: *flag* is signalled for the sender."""

    trigger: int
    connection: int
    flag: int


class EventDelivered(Event):
    """*flag* of *sint* went from 0 to 1."""

    sint: int
    flag: int


class InterceptInstalled(Event):
    """The parent wants to hear of *access* to *first* ... *last* of *kind* (HvInterceptType) in *partition*; 0: not any
    more."""

    partition: int
    kind: int
    first: int
    last: int
    access: int


class InterceptSent(Event):
    """The parent is asked: VP *vp* of partition *child* waits."""

    message_type: int
    child: int
    vp: int


class InterceptCompleted(Event):
    """The parent has answered: VP *vp* of partition *child* runs on."""

    message_type: int
    child: int
    vp: int


# --- Timers and clocks ---------------------------------------------------------------------------


class SyntheticTimerExpired(Event):
    """Synthetic timer *timer* of *partition*, *vp* has reached *expiration*, in 100 ns of its reference counter."""

    partition: int
    vp: int
    timer: int
    expiration: int


class SyntheticTimerSkipped(Event):
    """A tick of a lazy timer is left out: its VP did not run until shortly before the next one."""

    partition: int
    vp: int
    timer: int
    expiration: int


class UnhaltedTimerExpired(Event):
    """A VP has executed for the period of its time-unhalted timer; *runtime* is how long in all, in 100 ns."""

    partition: int
    vp: int
    runtime: int


# --- Partitions ----------------------------------------------------------------------------------


class PartitionCreated(Event):
    """*partition* exists, without memory or VPs."""

    partition: int
    parent: int


class PartitionNamed(Event):
    """*partition* is called *name* by those who manage it."""

    partition: int
    name: str


class PartitionInitialized(Event):
    """*partition* is active."""

    partition: int


class PartitionReset(Event):
    """*partition* was reset, by itself or by its parent, who starts it again."""

    partition: int


class PartitionFinalized(Event):
    """*partition* can only be torn down from here."""

    partition: int


class PartitionDeleted(Event):
    """*partition* is gone."""

    partition: int


class PropertySet(Event):
    """The parent set property *code* (HvPartitionProperty) of *partition*."""

    partition: int
    code: int
    value: int


class MemoryDeposited(Event):
    """*count* pages went into the pool of *partition* (negative: withdrawn)."""

    partition: int
    count: int


class VpCreated(Event):
    """VP *vp* of *partition* exists."""

    partition: int
    vp: int


class VpStarted(Event):
    """VP *vp* of *partition* begins at *rip*, with registers that its starter gave."""

    partition: int
    vp: int
    rip: int


class VpDeleted(Event):
    """VP *vp* of *partition* is gone."""

    partition: int
    vp: int


class PagesMapped(Event):
    """*count* pages from *gpa* of *partition* are backed; *rights* are EptRights."""

    partition: int
    gpa: int
    count: int
    rights: int


class PagesUnmapped(Event):
    """*count* pages from *gpa* of *partition* are backed no more."""

    partition: int
    gpa: int
    count: int


class OverlayMoved(Event):
    """The overlay called *name* (hypercall page, SIMP, ...) covers *gpa*, or nothing when None."""

    name: str
    gpa: int | None


class GuestCrashed(Event):
    """The guest reported its own crash through the crash MSRs."""

    parameters: tuple[int, int, int, int, int]
    text: str


# --- VMBus and devices ---------------------------------------------------------------------------


class SerialOutput(Event):
    """The guest's serial port sent *text*."""

    text: str


class PostCode(Event):
    """The guest showed *code* on the display for power-on self tests, port 0x80."""

    code: int
