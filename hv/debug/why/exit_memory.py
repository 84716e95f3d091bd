"""Why an access was refused by the EPT: the entry at which the walk stops, and who made it what it is."""

from __future__ import annotations

from typing import Any

from hv.debug.why.chain import Link
from hv.debug.why.exits import because, control
from hv.debug.why.visit import Scene
from hv.machine.faults import Access
from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE
from hv.trace.events import OverlayMoved, PagesMapped, PagesUnmapped
from hv.vmx.translation.ept_walk import EptWalk, EptWalkEntry

LEVELS = {4: "PML4E", 3: "PDPTE", 2: "PDE", 1: "PTE"}
_NAMES = ((Access.READ, "read"), (Access.WRITE, "write"), (Access.EXECUTE, "fetch"))


@because(ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION)
def ept(scene: Scene) -> list[Link]:
    """SDM "EPT Violations", "EPT Misconfigurations"."""
    exit, gpa = scene.exit, scene.exit.guest_physical_address or 0
    if exit.reason == ExitReason.EPT_MISCONFIGURATION:
        found = scene.vp.vcpu.second_level.walk(gpa)
        return [Link(f"an EPT entry on the way to gpa {gpa:#x} is misconfigured: {found.misconfigured}",
                     walk_links(scene, found))]
    wanted = Access(exit.qualification & 7)
    through = f" (linear address {exit.guest_linear_address:#x})" if exit.guest_linear_address is not None else ""
    return [Link(f"EPT violation: {access_words(wanted)} of gpa {gpa:#x}{through}", refusal(scene, gpa, wanted))]


def access_words(access: Access) -> str:
    """`read and write`."""
    return " and ".join(word for bit, word in _NAMES if access & bit) or "no access"


def refusal(scene: Scene, gpa: int, wanted: Access) -> list[Link]:
    """Why the EPT refuses *wanted* at *gpa*; where it does not (any more), what that means."""
    found = scene.vp.vcpu.second_level.walk(gpa)
    allowed = found.spa is not None and not int(wanted) & ~int(found.rights)
    if not allowed:
        return walk_links(scene, found)
    said = Access(scene.exit.qualification >> 3 & 7)
    if not scene.exact:
        return [Link(f"then the tables allowed {access_words(said)}; now they allow {access_words(found.rights)}: they "
                     "have been changed since")]
    return [Link("the tables allow it: what the processor had cached of them is older", walk_links(scene, found),
                 ok=False)]


def walk_links(scene: Scene, found: EptWalk) -> list[Link]:
    """Where the walk stops, which is its last entry, and what the hypervisor's own map says of the page."""
    space, page = scene.vp.partition.space, found.gpa >> PAGE_SHIFT
    if not found.entries:
        return [Link(f"gpa {found.gpa:#x} is beyond what the tables can map")]
    links = [_stop(scene, found, found.entries[-1]), control(scene, SecondaryControls.ENABLE_EPT)]
    over = space.overlay_at(page)
    if over is not None:
        links.insert(1, Link(f"the {over.name} lies over the page, with the rights to {access_words(over.rights)}",
                             look=lambda: scene.vp.partition.space.overlay_at(page), tells=_moves(found.gpa)))
    elif space.mapping(page) is None:
        links.insert(1, Link("the partition's own map has nothing there"))
    return links


def _stop(scene: Scene, found: EptWalk, step: EptWalkEntry) -> Link:
    """The entry that decides; what counts is what the page has been, whichever tables there were for it."""
    raw, gpa = step.entry.raw, found.gpa

    def look() -> object:
        now = scene.vp.vcpu.second_level.walk(gpa)
        return None if now.spa is None and not now.misconfigured else (now.spa, int(now.rights), now.misconfigured)

    rights = access_words(Access(raw & 7))
    what = "not present" if not raw & 7 else f"allows {rights} only" if step.level == 1 or step.entry.large else rights
    return Link(f"the walk stops at the level-{step.level} entry ({LEVELS[step.level]}) at spa {step.spa:#x}, which is "
                f"{raw:#x}: {what}", look=look, tells=_maps(scene, gpa),
                never="never mapped" if found.spa is None else "before the recording began")


def _maps(scene: Scene, gpa: int) -> Any:
    partition = scene.vp.partition.id
    return lambda event: (isinstance(event, PagesMapped | PagesUnmapped) and event.partition == partition
                          and event.gpa <= gpa < event.gpa + event.count * PAGE_SIZE)


def _moves(gpa: int) -> Any:
    return lambda event: isinstance(event, OverlayMoved) and event.gpa == gpa & -PAGE_SIZE
