"""An MSR as people write it: its index, or its name in the manual."""

from __future__ import annotations

from collections.abc import Iterator

from hv.debug.completion import Word
from hv.debug.conditions import closest
from hv.debug.errors import DebugError
from hv.debug.msr_text import is_there, manual_name
from hv.debug.session import Session
from hv.spec.msrs import Msr


def names() -> dict[str, Msr]:
    """Every name of each MSR: LSTAR, IA32_LSTAR, SIMP, HV_X64_MSR_SIMP."""
    return {name: msr for msr in Msr for name in (msr.name, manual_name(msr), msr.name.removeprefix("HV_"))}


def msr_words(session: Session, typed: str) -> Iterator[Word]:
    """Those that a guest of this hypervisor can have, for completion."""
    yield from (Word(manual_name(msr), f"{int(msr):#x}") for msr in Msr if is_there(int(msr)))


def msr_called(session: Session, text: str) -> int:
    """The index of the MSR that *text* names; DebugError with the nearest ones."""
    known = names()
    if text.upper() in known:
        return int(known[text.upper()])
    try:
        index = session.address(text)
    except DebugError:
        near = closest(text, known)
        raise DebugError(f"`{text}` is no MSR", f"near: {', '.join(near)}" if near else
                         "write its index, or a name such as IA32_LSTAR or HV_X64_MSR_SIMP") from None
    if index >> 32:
        raise DebugError(f"MSR {index:#x} is out of range 0..2^32-1")
    return index


def shown_name(index: int) -> str:
    """The manual's name, or the number of one that has none."""
    return manual_name(Msr(index)) if index in Msr.__members__.values() else f"MSR {index:#x}"
