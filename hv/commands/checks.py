"""What `hv demo` claims, each claim computed from the events and the memory of the run it showed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from hv.commands.story import BAG_GPA, DEVICE_VECTOR, LETTERS, MESSAGE_SINT, MESSAGE_VECTOR, Story
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.x86 import PAGE_SIZE
from hv.trace import events


@dataclass(frozen=True, slots=True)
class Check:
    """One claim: whether it holds, and what shows that."""

    name: str
    ok: bool
    evidence: str


Claim = Callable[[Story], tuple[bool, str]]
CLAIMS: dict[str, Claim] = {}


def claim(name: str) -> Callable[[Claim], Claim]:
    """Register a claim under the sentence that is printed."""
    def register(function: Claim) -> Claim:
        CLAIMS[name] = function
        return function
    return register


def check(story: Story) -> list[Check]:
    """Every claim about *story*, in order."""
    return [Check(name, *function(story)) for name, function in CLAIMS.items()]


def root_calls(story: Story) -> Counter[str]:
    """How often root made each hypercall with success."""
    calls = story.of(events.Hypercall, story.machine.hypervisor.root.id)
    return Counter(HypercallCode(call.code).name for call in calls if call.status == HvStatus.SUCCESS)


@claim("root makes its children by hypercalls")
def _made(story: Story) -> tuple[bool, str]:
    calls, made = root_calls(story), len(list(story.of(events.PartitionCreated)))
    wanted = ("CREATE_PARTITION", "INITIALIZE_PARTITION", "MAP_GPA_PAGES", "CREATE_VP", "SET_VP_REGISTERS")
    ok = made == calls["CREATE_PARTITION"] == calls["INITIALIZE_PARTITION"] == calls["CREATE_VP"] == 3
    return ok and all(calls[name] for name in wanted), ", ".join(f"{name} {calls[name]}" for name in wanted)


@claim("A and B run interleaved")
def _interleaved(story: Story) -> tuple[bool, str]:
    children = (story.a.partition_id, story.b.partition_id)
    order = [switch.partition for switch in story.of(events.VpSwitch) if switch.partition in children]
    turns = sum(1 for before, after in pairwise(order) if before != after)
    return turns >= 2 * LETTERS, f"the processor changed between them {turns} times"


@claim("CPUID exits, and the hypervisor answers with its name")
def _cpuid(story: Story) -> tuple[bool, str]:
    answers = [event.answer for event in story.of(events.Cpuid, story.a.partition_id) if event.leaf == 0x40000000]
    names = [b"".join(word.to_bytes(4, "little") for word in words).decode("ascii", "replace") for _, *words in answers]
    return names == ["Microsoft Hv"] and "Microsoft Hv" in story.a.serial, f"leaf 0x40000000 gave {names}"


@claim("RDMSR and WRMSR exit, and are answered")
def _msr(story: Story) -> tuple[bool, str]:
    exits = sum(story.exits(vm, name) for vm in (story.a, story.b) for name in ("RDMSR", "WRMSR"))
    answered = sum(1 for vm in (story.a, story.b) for kind in (events.MsrRead, events.MsrWrite)
                   for _ in story.of(kind, vm.partition_id))
    return exits == answered > 0, f"{exits} exits in A and B, {answered} answered"


@claim("VMCALL exits, and A's hypercalls succeed")
def _hypercalls(story: Story) -> tuple[bool, str]:
    calls = list(story.of(events.Hypercall, story.a.partition_id))
    good = [call for call in calls if call.code == HypercallCode.POST_MESSAGE and call.status == HvStatus.SUCCESS]
    exits = story.exits(story.a, "VMCALL")
    return len(good) == LETTERS and exits == len(calls), f"{exits} exits, POST_MESSAGE succeeded {len(good)} times"


@claim("every message of A reaches B, in order")
def _messages(story: Story) -> tuple[bool, str]:
    posted = len(list(story.of(events.MessagePosted, story.a.partition_id)))
    delivered = sum(1 for event in story.of(events.MessageDelivered) if event.sint == MESSAGE_SINT)
    raised = injected(story, story.b.partition_id, MESSAGE_VECTOR)
    lines = [line for line in story.b.serial.splitlines() if line.startswith("got message")]
    wanted = [f"got message {n} > from A" for n in range(1, LETTERS + 1)]
    return posted == delivered == LETTERS and raised > 0 and lines == wanted, (
        f"{posted} posted, {delivered} delivered to SINT{MESSAGE_SINT}, vector {MESSAGE_VECTOR:#x} injected {raised} "
        f"times, B printed {len(lines)}")


def injected(story: Story, partition: int, vector: int) -> int:
    """How often *vector* was injected into a VP of *partition*."""
    return sum(1 for event in story.of(events.Injected, partition) if event.vector == vector)


@claim("the device's interrupt arrives in A")
def _interrupt_in_a(story: Story) -> tuple[bool, str]:
    routed = [event for event in story.of(events.InterruptRouted) if event.partition == story.a.partition_id]
    count = injected(story, story.a.partition_id, DEVICE_VECTOR)
    sources = {event.source_id for event in routed}
    return len(routed) == count == LETTERS and sources == {device_of(story)}, (
        f"{len(routed)} from {device_of(story):#06x} remapped to A, vector {DEVICE_VECTOR:#x} injected {count} times")


def device_of(story: Story) -> int:
    """The requester id of A's device."""
    device = story.a.worker.device
    assert device is not None, "A was made with a device"
    return device.source_id


@claim("the device's interrupt does not arrive in B")
def _interrupt_not_in_b(story: Story) -> tuple[bool, str]:
    others = (story.b.partition_id, story.attacker.partition_id)
    routed = sum(1 for event in story.of(events.InterruptRouted) if event.partition in others)
    count = sum(injected(story, partition, DEVICE_VECTOR) for partition in others)
    all_of_them = len(list(story.of(events.InterruptRouted)))
    return routed == count == 0 < all_of_them, (
        f"of {all_of_them} {routed or 'none'} was routed to B or the attacker, {count or 'none'} injected")


@claim("DMA of A's device lands in A's page")
def _dma(story: Story) -> tuple[bool, str]:
    writes = [event for event in story.of(events.Dma) if event.write and event.source_id == device_of(story)]
    page = story.a.worker.pages[BAG_GPA // PAGE_SIZE]
    owner = story.machine.hypervisor.owners.borrower(page)
    content = story.machine.memory.read(page * PAGE_SIZE, 16)
    ok = len(writes) == LETTERS and {event.spa for event in writes} == {page * PAGE_SIZE}
    letter = LETTERS.to_bytes(8, "little") + b"> from A"
    return ok and owner == story.a.partition_id and content == letter, (
        f"{len(writes)} writes to gpa {BAG_GPA:#x} = spa {page * PAGE_SIZE:#x} of {story.name(owner or 0)}, "
        f"which now holds {content[8:].decode('ascii', 'replace')!r} {content[0]}")


def attempts(story: Story) -> list[tuple[str, str]]:
    """What the attacker tried, and what it says came of it."""
    lines = [line.partition(": ") for line in story.attacker.serial.splitlines()]
    return [(name, outcome) for name, colon, outcome in lines if colon]


@claim("the attacker is refused at every turn")
def _refused(story: Story) -> tuple[bool, str]:
    tried = attempts(story)
    kinds = Counter("status" if outcome.startswith("refused") else "fault" if outcome.startswith("fault")
                    else "nothing there" if outcome.startswith("nothing") else "its own device"
                    if outcome.startswith("the device is ours") else "reached" for _, outcome in tried)
    finished = "attacker has tried everything" in story.attacker.serial
    return finished and len(tried) >= 30 and not kinds["reached"], (
        f"{len(tried)} attempts: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))


@claim("none of the attacker's hypercalls succeeds")
def _calls_refused(story: Story) -> tuple[bool, str]:
    statuses = Counter(HvStatus(call.status).name for call in story.of(events.Hypercall, story.attacker.partition_id))
    ok = not statuses["SUCCESS"] and statuses.total() >= 10
    return ok, ", ".join(f"{name} {count}" for name, count in sorted(statuses.items()) if count)


@claim("the IOMMU refuses the attacker's DMA")
def _dma_refused(story: Story) -> tuple[bool, str]:
    device = story.attacker.worker.device
    assert device is not None, "the attacker was made with a device"
    faults = [event for event in story.of(events.DmaFault) if event.source_id == device.source_id]
    own = set(story.attacker.worker.pages)
    strayed = [event for event in story.of(events.Dma) if event.source_id == device.source_id
               and event.spa // PAGE_SIZE not in own]
    seen = "; ".join(f"{fault.iova:#x}: {fault.text}" for fault in faults) or "no fault"
    return len(faults) >= 2 and not strayed, f"{seen}; {len(strayed)} went astray" if strayed else seen


@claim("B's memory is as it was before the attack")
def _b_unchanged(story: Story) -> tuple[bool, str]:
    return story.before.b == story.after.b, same(story.before.b, story.after.b)


@claim("A's memory is as it was before the attack")
def _a_unchanged(story: Story) -> tuple[bool, str]:
    return story.before.a == story.after.a, same(story.before.a, story.after.a)


def same(before: str, after: str) -> str:
    """Two hashes, shortened."""
    return f"SHA-256 {before[:16]}... before, {after[:16]}... after"


@claim("root's memory is as it was before the attack")
def _root_unchanged(story: Story) -> tuple[bool, str]:
    before, after, own = story.before.root, story.after.root, story.hypercall_pages
    changed = sorted(page for page in before if before[page] != after.get(page))
    strange = [page for page in changed if page not in own]
    return before.keys() == after.keys() and not strange, (
        f"{len(before) - len(changed)} pages are the same; {len(changed)} hold the input of root's own hypercalls"
        if not strange else f"changed: {', '.join(hex(page * PAGE_SIZE) for page in strange[:8])}")


@claim("A and B live on after the attack")
def _lives(story: Story) -> tuple[bool, str]:
    later = [record.event for record in story.records[story.attack_over:]]
    delivered = sum(1 for event in later if isinstance(event, events.MessageDelivered) and event.sint == MESSAGE_SINT)
    ok = story.letters_before == LETTERS - 1 and delivered == 1 and story.a.ended == story.b.ended == "shutdown"
    return ok, (f"B had {story.letters_before} letters, got {delivered} more after it; A ended by {story.a.ended}, "
                f"B by {story.b.ended}")
