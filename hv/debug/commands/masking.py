"""mask, unmask: sources of interrupts are held back, and let through again."""

from __future__ import annotations

from collections.abc import Iterator

from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.registry import command, first_word
from hv.debug.render import Changed
from hv.debug.session import Session
from hv.hypervisor.registers.table import get_register
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.replay.changes import LetThrough, SetRegister
from hv.spec.apic import LVT_MASKED
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import SINT_COUNT, HvSynicSint

_ENTRIES = {"timer": "APIC_LVT_TIMER", "thermal": "APIC_LVT_THERMAL", "perfmon": "APIC_LVT_PERFMON",
            "lint0": "APIC_LVT_LINT0", "lint1": "APIC_LVT_LINT1", "error": "APIC_LVT_ERROR"}
_SINT_MASKED = HvSynicSint(masked=1).raw


def _sources(session: Session, typed: str) -> Iterator[Word]:
    yield from (Word(f"sint{n}", "a synthetic interrupt source") for n in range(SINT_COUNT))
    yield from (Word(name, "an entry of the APIC's local vector table") for name in _ENTRIES)
    yield Word("vector", "a device's interrupt, by its physical vector")


@command("mask", text=_sources)
def mask(session: Session, text: str) -> Changed:
    """Hold back a source of interrupts: a SINT or an LVT entry of the VP looked at, or a device's interrupt.

    A device's is named by its physical vector, which `inspect routes` lists; the entry of the IOMMU that lets it
    through is not present then, and each interrupt is a fault there.

    Example: `mask sint2`, `mask timer`
    """
    return _set_mask(session, text, True)


@command("unmask", text=_sources)
def unmask(session: Session, text: str) -> Changed:
    """Let a source of interrupts through again.

    Example: `unmask lint0`
    """
    return _set_mask(session, text, False)


def _set_mask(session: Session, text: str, masked: bool) -> Changed:
    source, rest = first_word(text)
    if source == "vector":
        return _mask_device(session, session.number(rest or "missing"), masked)
    if rest:
        raise DebugError(f"`{rest}` is too much", "write mask sint2, mask timer, or mask vector 0x30")
    return _mask_register(session.vp, session, source, masked)


def _mask_register(vp: VirtualProcessor, session: Session, source: str, masked: bool) -> Changed:
    """A SINT or an LVT entry: bit 16 of either."""
    sints = {f"sint{n}": f"SINT{n}" for n in range(SINT_COUNT)}
    name = (sints | _ENTRIES).get(source.lower())
    if name is None:
        raise DebugError(f"`{source}` is no source of interrupts",
                         f"there are sint0..sint{SINT_COUNT - 1}, {', '.join(_ENTRIES)}, vector N")
    register, bit = HvRegisterName[name], _SINT_MASKED if source.startswith("sint") else LVT_MASKED
    before = _value(vp, register)
    session.change(SetRegister(vp.partition.id, vp.index, name, before | bit if masked else before & ~bit))
    now = _value(vp, register)
    stuck = () if bool(now & bit) is masked else ("it stays masked while the APIC is disabled by software",)
    return Changed(source, _words(before & bit), _words(now & bit), stuck)


def _value(vp: VirtualProcessor, register: HvRegisterName) -> int:
    return int.from_bytes(get_register(vp, register)[:8], "little")


def _words(masked: int) -> str:
    return "masked" if masked else "let through"


def _mask_device(session: Session, vector: int, masked: bool) -> Changed:
    hypervisor = session.machine.hypervisor
    route = hypervisor.interrupts.at(vector)
    if route is None:
        raise DebugError(f"no device has physical vector {vector:#x}", "`inspect routes` lists them")
    before = hypervisor.iommu.lets_through(route.source_id, vector)
    session.change(LetThrough(vector, not masked))
    return Changed(f"device {route.source_id:#x}, vector {vector:#x}", _words(not before), _words(masked))
