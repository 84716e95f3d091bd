"""The rows of `hv demo`'s tables, each taken from the run."""

from __future__ import annotations

from itertools import dropwhile
from typing import Any

from hv.commands.checks import attempts, device_of
from hv.commands.story import DEVICE_VECTOR, MESSAGE_SINT, MESSAGE_VECTOR, Story, is_exit
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.msrs import Msr
from hv.spec.x86 import PAGE_SIZE
from hv.trace import events
from hv.trace.bus import Record

Row = tuple[str, ...]
TURNS, ORDER = 20, 64


def partitions(story: Story) -> list[Row]:
    """Each partition: what it is, how much memory, and which hypercalls made it."""
    machine = story.machine
    taken = machine.memory.size // PAGE_SIZE - sum(machine.hypervisor.owners.is_root(page)
                                                   for page in range(machine.memory.size // PAGE_SIZE))
    rest = f"{(machine.memory.size >> 10) - taken * 4} KiB"
    rows: list[Row] = [("", "hypervisor", f"{taken * 4} KiB", "the machine's start"),
                       (f"{machine.hypervisor.root.id} root", "owner of the devices", rest, "the hypervisor")]
    what = {"B": "receiver.asm", "A": "postman.asm, a DMA engine", "attacker": "attacker.asm, a DMA engine"}
    for vm in (story.b, story.a, story.attacker):
        rows.append((f"{vm.partition_id} {vm.name}", what[vm.name], f"{vm.worker.memory_bytes >> 20} MiB",
                     calls_for(story, vm.partition_id)))
    return rows


def calls_for(story: Story, partition_id: int) -> str:
    """The hypercalls of root between the creation of this partition and the next one."""
    counts: dict[str, int] = {}
    counting = False
    for record in story.records:
        event = record.event
        if isinstance(event, events.PartitionCreated):
            counting = event.partition == partition_id
        elif isinstance(event, events.VpSwitch):
            counting = False
        elif counting and isinstance(event, events.Hypercall):
            name = HypercallCode(event.code).name
            counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} {count}" if count > 1 else name for name, count in counts.items())


def turns(story: Story) -> list[Row]:
    """The first exits of A and B; consecutive port I/O of one of them is one row."""
    rows: list[list[Any]] = []
    last: dict[int, list[Any]] = {}         # of each partition, its latest row
    children = {story.a.partition_id, story.b.partition_id}
    for at, record in enumerate(story.records):
        if record.partition not in children or not is_exit(record.event):
            continue
        what, before = record.event.reason.name, last.get(record.partition)
        if before is not None and before[2] == what == "IO_INSTRUCTION":
            before[4] += 1
            continue
        last[record.partition] = row = [us(record), story.name(record.partition), what, answer(story, at), 1]
        rows.append(row)
        if len(rows) > TURNS:
            break
    return [(time, who, what if count == 1 else f"{what} x {count}", meaning)
            for time, who, what, meaning, count in rows[:TURNS]]


def order(story: Story) -> str:
    """Who of A and B got the processor, one letter a turn."""
    children = {story.a.partition_id: "A", story.b.partition_id: "B"}
    switches = (switch.partition for switch in story.of(events.VpSwitch))
    letters = [children[partition] for partition in switches if partition in children]
    return "".join(letters[:ORDER]) + (" ..." if len(letters) > ORDER else "")


def answer(story: Story, at: int) -> str:
    """What became of the exit that is record *at*: the next event that says so."""
    for record in story.records[at + 1 : at + 4]:
        match record.event:
            case events.Cpuid(leaf=leaf):
                return f"leaf {leaf:#x} answered from the partition's own table"
            case events.MsrIgnored(msr=msr):
                return f"{msr_name(msr)} is not there, which the partition ignores"
            case events.MsrRead(msr=msr, value=value):
                return f"{msr_name(msr)} is {value:#x}"
            case events.MsrWrite(msr=msr, value=value):
                return f"{msr_name(msr)} = {value:#x}"
            case events.PortIo(port=port, write=write):
                return f"{'to' if write else 'from'} port {port:#x}: root's worker is asked, by a message"
            case events.MmioAccess(gpa=gpa):
                return f"the local APIC's page at {gpa & -PAGE_SIZE:#x}, emulated"
            case events.VpHalted():
                return "sleeps until an interrupt"
            case events.MessagePosted():
                return "HvCallPostMessage"
    return ""


def msr_name(number: int) -> str:
    """The name of an MSR, or its number."""
    try:
        return Msr(number).name
    except ValueError:
        return f"MSR {number:#x}"


def letter(story: Story) -> list[Row]:
    """The events of the first letter, from the device's read to B's answer."""
    rows: list[Row] = []
    for record in dropwhile(lambda record: not isinstance(record.event, events.Dma), story.records):
        row = step_of_letter(story, record)
        if row is not None:
            rows.append((us(record), *row))
            if row[1] == "Injected" and row[0] == "B":
                break
    return rows


def step_of_letter(story: Story, record: Record) -> tuple[str, str, str] | None:
    """One event on the letter's way as (where, event, meaning); None for one that is not on it."""
    match record.event:
        case events.Dma(source_id=device, iova=iova, write=write, spa=spa) if device == device_of(story):
            what = "writes" if write else "reads"
            return "device", "Dma", f"{what} {iova:#x}; the IOMMU's tables of A say RAM at {spa:#x}"
        case events.InterruptRemapped(vector=vector, index=index):
            return "IOMMU", "InterruptRemapped", f"handle {index} becomes physical vector {vector:#x}"
        case events.InterruptRouted(vector=vector, partition=partition):
            return "hypervisor", "InterruptRouted", f"the owner is {story.name(partition)}, its vector is {vector:#x}"
        case events.Injected(vector=vector) if vector == DEVICE_VECTOR:
            return story.name(record.partition), "Injected", f"vector {vector:#x}: the letter is copied"
        case events.MessagePosted(connection=connection, size=size):
            return story.name(record.partition), "MessagePosted", f"{size} bytes through connection {connection}"
        case events.MessageDelivered(sint=sint) if sint == MESSAGE_SINT:
            return "hypervisor", "MessageDelivered", f"into slot {sint} of the receiver's message page"
        case events.Injected(vector=vector) if vector == MESSAGE_VECTOR and record.partition == story.b.partition_id:
            return "B", "Injected", f"vector {vector:#x}: B reads \"{first_letter(story)}\""
    return None


def first_letter(story: Story) -> str:
    """What B printed of the first message."""
    return next((line for line in story.b.serial.splitlines() if line.startswith("got message")), "nothing")


def attack(story: Story) -> list[Row]:
    """What the attacker tried, and what it got."""
    return [(name, shorter(outcome)) for name, outcome in attempts(story)]


def shorter(outcome: str) -> str:
    """The outcome with its numbers without leading zeroes."""
    words = []
    for word in outcome.split(" "):
        number, comma = word.rstrip(","), word[len(word.rstrip(",")):]
        words.append(f"{int(number, 16):#x}{comma}" if number.startswith("0x") else word)
    return " ".join(words)


def hashes(story: Story) -> list[Row]:
    """Memory before and after the attack."""
    before, after = story.before, story.after
    own = story.hypercall_pages
    changed = [page for page in before.root if before.root[page] != after.root.get(page) and page not in own]
    return [("A", before.a[:32], after.a[:32]), ("B", before.b[:32], after.b[:32]),
            ("root", f"{len(before.root)} pages", f"{len(changed)} changed, beside those of its own hypercalls")]


def us(record: Record) -> str:
    """When, in microseconds of virtual time."""
    return f"{record.tsc / 2000:.1f}"
