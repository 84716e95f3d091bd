"""Mistakes of a hypervisor that show at an exit: the guest goes on at the wrong place, or by translations that are old.

A sound hypervisor makes neither; one that is being written, and those of the labs, do.
"""

from __future__ import annotations

from collections.abc import Iterator

from hv.debug.why.chain import Link, Look
from hv.debug.why.exit_memory import access_words
from hv.debug.why.visit import Scene
from hv.machine.faults import Access
from hv.replay.position import Position, PositionError
from hv.spec.exits import ExitReason
from hv.spec.x86 import LARGE_PAGES, PAGE_SHIFT, PAGE_SIZE
from hv.trace.events import Fault, HypercallInterrupted, Injected, InterceptSent, VpEnded, VpSwitch
from hv.vmx.translation.second_level import SecondLevel

_COMPLETED = frozenset({ExitReason.CPUID, ExitReason.RDMSR, ExitReason.WRMSR, ExitReason.VMCALL, ExitReason.RDTSC,
                        ExitReason.IO_INSTRUCTION})
_ELSEWHERE = (Fault, Injected, InterceptSent, HypercallInterrupted, VpEnded, VpSwitch)
MOST_STALE = 4                  # pages that are named


def mistakes(scene: Scene) -> list[Link]:
    """Those that show; the machine stands at the exit, and does so afterwards."""
    return [*_stale(scene), *_landing(scene)] if scene.exact else _stale(scene)


def _landing(scene: Scene) -> list[Link]:
    """Behind an instruction that was completed the guest goes on at its end. SDM "Instruction length"."""
    length, timeline = scene.exit.instruction_length, scene.session.timeline
    if scene.exit.reason not in _COMPLETED or not length or scene.next(*_ELSEWHERE) is not None or timeline is None:
        return []
    wanted, here = scene.vp.regs.rip + length, timeline.position
    try:
        timeline.go(Position(here.exits, 1))
        found, ran = scene.vp.regs.rip, scene.session.machine.scheduler.current is scene.vp
    except PositionError:
        return []
    finally:
        timeline.go(here)
    if found == wanted or not ran:
        return []
    return [Link(f"the guest goes on at {found:#x}, and the instruction of {length} bytes ends at {wanted:#x}: RIP was "
                 "not moved by the instruction length (wrong RIP advance)", ok=False)]


def _stale(scene: Scene) -> list[Link]:
    """Translations that the processor has kept, and that the tables do not give any more. SDM "INVEPT"."""
    second_level, space = scene.vp.vcpu.second_level, scene.vp.partition.space
    links = []
    for page, spa, rights in _kept(second_level):
        gpa = page << PAGE_SHIFT
        now = second_level.walk(gpa)
        if now.spa is not None and now.spa >> PAGE_SHIFT == spa >> PAGE_SHIFT and not rights & ~int(now.rights):
            continue
        said = "nothing" if now.spa is None else f"spa {now.spa:#x}, {access_words(now.rights)}"
        over = space.overlay_at(page)
        there = f" (the {over.name})" if over is not None else ""
        links.append(Link(f"the processor goes by an old translation of gpa {gpa:#x}: spa {spa:#x}, "
                          f"{access_words(Access(rights))}; the tables give {said}{there}: INVEPT is missing (stale "
                          "TLB)", ok=False, look=_walked(scene, gpa)))
        if len(links) == MOST_STALE:
            break
    return links


def _kept(second_level: SecondLevel) -> Iterator[tuple[int, int, int]]:
    """Each page (gpa >> 12) that is cached: its spa and rights. A large one that the tables have split is looked at
    page by page."""
    if second_level.eptp is None:
        return
    mappings = second_level.cached.of(second_level.eptp)
    for page, (spa, rights) in sorted(mappings.pages.items()):
        if page in mappings.large and second_level.walk(page << PAGE_SHIFT).page_size == PAGE_SIZE:
            first = page & -LARGE_PAGES
            for n in range(LARGE_PAGES):
                yield first + n, spa + (first + n - page << PAGE_SHIFT), rights
        else:
            yield page, spa, rights


def _walked(scene: Scene, gpa: int) -> Look:
    def look() -> object:
        now = scene.vp.vcpu.second_level.walk(gpa)
        return now.spa, int(now.rights)

    return look
