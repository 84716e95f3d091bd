"""mem, stack, pagewalk, ept, map: memory by its three kinds of address, and the two translations between them."""

from __future__ import annotations

from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.looking import MOST_BYTES, dump, page_walk, read_gpa, read_gva, read_spa, readable
from hv.debug.registry import command
from hv.debug.session import Session
from hv.debug.stack import MOST_SLOTS, slots
from hv.machine.faults import Access
from hv.machine.paging import PageFault
from hv.vmx.translation.ept_walk import EptWalk


def _spaces(session: Session, typed: str) -> list[Word]:
    return [Word("gva", "linear"), Word("gpa", "guest-physical"), Word("spa", "system-physical")]


@command("mem", "m", space=_spaces)
def mem(session: Session, space: str, address: int, n: int = 64) -> list[str]:
    """Show *n* bytes at a linear (gva), guest-physical (gpa) or system-physical (spa) address: `mem gva rsp 64`.

    Example: `mem gva rip 32`, `mem gpa 0x10000`
    """
    if not 1 <= n <= MOST_BYTES:
        raise DebugError(f"{n} bytes are out of range 1..{MOST_BYTES}")
    vp = session.vp
    match space:
        case "gva":
            return dump(address, readable(lambda at, size: read_gva(vp, at, size), address, n))
        case "gpa":
            return dump(address, readable(lambda at, size: read_gpa(vp.partition, at, size), address, n))
        case "spa":
            return dump(address, readable(lambda at, size: read_spa(vp.partition, at, size), address, n))
    raise DebugError(f"`{space}` is no kind of address", "gva (linear), gpa (guest-physical), spa (system-physical)")


@command("stack", "k")
def stack(session: Session, n: int = 16) -> list[str]:
    """Show the top *n* elements of the VP's stack; an address behind a CALL is marked, with who is returned to.

    Example: `stack 8`
    """
    if not 1 <= n <= MOST_SLOTS:
        raise DebugError(f"{n} elements are out of range 1..{MOST_SLOTS}")
    vp = session.vp
    found = list(slots(vp, n))
    if not found:
        raise DebugError(f"no stack can be read at rsp {vp.regs.rsp:#x}", "`pagewalk rsp` says why")
    width, base = vp.regs.bits // 4, 0 if vp.regs.bits == 64 else vp.regs.cs.base
    return [f"{slot.gva:016x}  {slot.value:0{width}x}" + (
        f"  returns to {session.places.name(session.vm.name, base + slot.value)}" if slot.returns else "")
        for slot in found]


@command("pagewalk", "pw")
def pagewalk(session: Session, address: int) -> list[str]:
    """Translate a linear address as the processor does: each entry of the guest's tables, then the EPT's.

    Example: `pagewalk rsp`
    """
    try:
        walk = page_walk(session.vp, address)
    except PageFault as fault:
        steps = [f"{level.name:<6} at gpa {level.gpa:#012x}  {level.raw:#018x}" for level in fault.levels]
        return [*steps, f"#PF({fault.error_code or 0:#x}): {fault.reason}"]
    rights = "".join((" writable" if walk.writable else " read-only", " user" if walk.user else " supervisor",
                      " executable" if walk.executable else " no-execute"))
    lines = [f"{level.name:<6} at gpa {level.gpa:#012x}  {level.raw:#018x}" for level in walk.levels]
    found = f"gva {address:#x} -> gpa {walk.gpa:#x}, page of {walk.page_size:#x}:{rights}"
    return [*(lines or ["paging is off"]), found, *ept(session, walk.gpa)]


@command("ept")
def ept(session: Session, address: int) -> list[str]:
    """Translate a guest-physical address: each entry of the partition's extended page tables.

    Example: `ept 0x10000`
    """
    tables = session.vp.partition.space.tables
    if tables is None:
        return ["this partition has no EPT: its addresses are the machine's"]
    if address >= 1 << 48:
        raise DebugError(f"guest-physical {address:#x} is out of range 0..2^48-1", "`map` shows what is there")
    return ept_lines(tables.walk(address))


def ept_lines(walk: EptWalk) -> list[str]:
    """An EPT walk, one entry a line, and what came of it."""
    names = {4: "PML4E", 3: "PDPTE", 2: "PDE", 1: "PTE"}
    lines = [f"{names[step.level]:<6} at spa {step.spa:#012x}  {step.entry.raw:#018x}  "
             f"{rights_text(Access(step.entry.raw & 7))}" for step in walk.entries]
    if walk.misconfigured:
        return [*lines, f"EPT misconfiguration: {walk.misconfigured}"]
    if walk.spa is None:
        return [*lines, f"gpa {walk.gpa:#x} is not mapped: an access is an EPT violation"]
    return [*lines, f"gpa {walk.gpa:#x} -> spa {walk.spa:#x}, page of {walk.page_size:#x}: {rights_text(walk.rights)}"]


def rights_text(rights: Access) -> str:
    """`rwx`, with `-` for what is missing."""
    return "".join(letter if rights & bit else "-" for letter, bit in
                   (("r", Access.READ), ("w", Access.WRITE), ("x", Access.EXECUTE)))


@command("map")
def map(session: Session) -> list[str]:
    """Show what stands at which guest-physical addresses of the partition: runs of pages, then overlays.

    Example: `map`
    """
    space = session.vp.partition.space
    runs: list[list[int]] = []
    for page, mapping in space.mappings():
        spa_page, rights = mapping.spa >> 12, int(mapping.rights)
        last = runs[-1] if runs else None
        if last and page == last[1] and spa_page == last[2] + page - last[0] and rights == last[3]:
            last[1] = page + 1
        else:
            runs.append([page, page + 1, spa_page, rights])
    lines = [f"gpa {first << 12:#012x}..{(end << 12) - 1:#012x}  spa {spa << 12:#010x}  {rights_text(Access(rights))}"
             for first, end, spa, rights in runs]
    overlays = [f"gpa {entry['gpa']:#012x}  overlay: {entry['name']} (spa {entry['spa']:#x})"
                for entry in space.inspect()["overlays"]]
    return [*lines, *overlays] or ["nothing is mapped"]


