"""One hash of all that a machine is: what two moments that cannot be told apart have in common.

Made of RAM, the registers of every processor, and what each part says of itself (`inspect`): nothing of the host, so
it is the same on another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from hv.platform import Box
from hv.replay.pages import used_pages
from hv.spec.x86 import PAGE_SIZE

_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
              "r15", "rip", "rflags", "cpl", "cr0", "cr2", "cr3", "cr4", "efer", "dr0", "dr1", "dr2", "dr3", "dr6",
              "dr7", "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr")


def fingerprint(machine: Box) -> str:
    """Hexadecimal. Asking changes nothing."""
    found = hashlib.blake2b(digest_size=16)
    for page in used_pages(machine.memory):
        content = machine.memory.read(page * PAGE_SIZE, PAGE_SIZE)
        if any(content):
            found.update(page.to_bytes(8, "little") + content)
    for line in describe(machine):
        found.update(line.encode() + b"\n")
    return found.hexdigest()


def describe(machine: Box) -> Iterator[str]:
    """All but RAM, a line for each part: what two fingerprints that differ are compared by."""
    yield f"tsc {machine.clock.tsc}"
    for number, partition in sorted(machine.hypervisor.partitions.items()):
        yield f"partition {number} {_plain(partition.inspect())}"
        for index, vp in sorted(partition.vps.items()):
            yield f"vp {number}.{index} {_plain(vp.inspect())}"
            if partition.runs_code:
                yield f"registers {number}.{index} {[(name, getattr(vp.regs, name)) for name in _REGISTERS]}"
                yield f"exits {number}.{index} {vp.vcpu.exits}"
    for name, part in (("iommu", machine.iommu), *((f"device {device.rid:#x}", device) for device in machine.devices),
                       ("processor", machine.processor.apic)):
        look: Callable[[], Any] | None = getattr(part, "inspect", None)
        if look is not None:
            yield f"{name} {_plain(look())}"


def _plain(value: Any) -> str:
    """The same text for the same plain data, in whatever order a set or a dict has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{_plain(key)}: {_plain(item)}" for key, item in value.items())) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_plain, value))) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return repr(value)
