"""What the processors of one engine have cached of address translation, and the instructions that make them forget.

SDM "Caching Translation Information". Three kinds of mappings: guest-physical ones are kept here, by EPT pointer; those
that the engine translates by (its nested tables) are a copy of them; linear and combined ones are in the engine's own
TLB, which holds those of the processor that runs and of those that translate by the same registers. A processor may
forget more than it is asked to, and this one does: one VPID's linear mappings go all together, and when another EPT
pointer comes into use the engine's copy starts empty. It may not forget less, and it goes on using a stale translation
until somebody says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hv.machine.paging import is_canonical
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import Eptp, InveptType, InvvpidType
from hv.vmx.capabilities import PROCESSOR, Capabilities
from hv.vmx.translation.ept_walk import is_valid_eptp

if TYPE_CHECKING:
    from hv.machine.engine import Engine
    from hv.vmx.translation.second_level import SecondLevel


class MmioPort(Protocol):
    """System-physical addresses that are not RAM."""

    def contains(self, spa: int) -> bool: ...
    def read(self, spa: int, size: int) -> int: ...
    def write(self, spa: int, size: int, value: int) -> None: ...


class GuestPhysicalMappings(NamedTuple):
    """What was cached of one EPT pointer."""

    pages: dict[int, tuple[int, int]]       # gpa page -> (spa of the page, rights)
    large: set[int]                         # gpa pages of those that belong to a page of 2 MiB or more


class CachedMappings:
    """The translation caches of *engine*; without one, of a processor that accesses memory in software only."""

    def __init__(self, memory: PhysicalMemory, mmio: MmioPort, engine: Engine | None = None,
                 capabilities: Capabilities = PROCESSOR) -> None:
        self.memory, self.mmio, self.engine, self.capabilities = memory, mmio, engine, capabilities
        self.generation = 0                 # counts what was forgotten
        self._by_eptp: dict[int | None, GuestPhysicalMappings] = {}
        self._in_engine: int | None = -1    # the EPT pointer whose mappings the engine has a copy of
        self.entered: SecondLevel | None = None    # by which the processor that ran last translates
        self._vpids: set[int] = set()       # whose linear mappings may be in the engine: they share what they can
        self._access_page = -1              # of the processor that ran last: no mapping leads there

    def of(self, eptp: int | None) -> GuestPhysicalMappings:
        """The guest-physical mappings of *eptp*; None stands for no EPT."""
        return self._by_eptp.setdefault(eptp, GuestPhysicalMappings({}, set()))

    def enter(self, second_level: SecondLevel) -> None:
        """The processor that translates by *second_level* is about to run, or to go on by another pointer or VPID.

        What was found out with it before is still true when it only takes turns with others.
        """
        if self.entered is second_level or self._in_engine != second_level.eptp:
            self.generation += 1
        self.entered = second_level
        self._vpids.add(second_level.vpid)
        if self._access_page != second_level.access_page:
            self._access_page = second_level.access_page
            self._forget(lambda tag: True)
        if self.engine is None:
            return
        self.engine.second_level = second_level.answer
        if self._in_engine != second_level.eptp:
            self._in_engine = second_level.eptp
            self.engine.invept()

    def invept(self, kind: int, eptp: int = 0) -> bool:
        """INVEPT of type *kind* with *eptp* in the descriptor; False is VMfail(invalid operand). SDM "INVEPT"."""
        offered = self.capabilities.ept_vpid
        if kind == InveptType.ALL_CONTEXT and offered.invept_all_context:
            self._forget(lambda tag: True)
        elif kind == InveptType.SINGLE_CONTEXT and offered.invept_single_context \
                and is_valid_eptp(eptp, self.capabilities):
            self._forget(lambda tag: tag is not None and Eptp(tag).ep4ta == Eptp(eptp).ep4ta)
        else:
            return False
        return True

    def _forget(self, is_meant: Callable[[int | None], bool]) -> None:
        """The tag is the address of the top table: pointers that differ elsewhere are forgotten together."""
        self.generation += 1
        for eptp in [eptp for eptp in self._by_eptp if is_meant(eptp)]:
            mappings = self._by_eptp[eptp]
            mappings.pages.clear()
            mappings.large.clear()
        if self.engine is not None and self._in_engine != -1 and is_meant(self._in_engine):
            self.engine.invept()

    def drop(self, eptp: int | None, gpa: int) -> None:
        """Forget what was cached of the page of *gpa*, as an EPT violation does."""
        mappings = self._by_eptp.get(eptp)
        known = mappings is not None and mappings.pages.pop(gpa >> 12, None) is not None
        if mappings is not None:
            mappings.large.discard(gpa >> 12)
        copied = self.engine is not None and self._in_engine == eptp and self.engine.nested.drop(gpa)
        if known or copied:
            self.generation += 1
            self.flush_linear()

    def invvpid(self, kind: int, vpid: int, linear_address: int = 0) -> bool:
        """INVVPID of type *kind* with *vpid* and *linear_address* in the descriptor (bits 63:16 of its first half are
        part of *vpid*); False is VMfail(invalid operand). SDM "INVVPID".
        """
        offered = self.capabilities.ept_vpid
        supported = {InvvpidType.INDIVIDUAL_ADDRESS: offered.invvpid_individual_address,
                     InvvpidType.SINGLE_CONTEXT: offered.invvpid_single_context,
                     InvvpidType.ALL_CONTEXT: offered.invvpid_all_context,
                     InvvpidType.SINGLE_CONTEXT_RETAINING_GLOBALS: offered.invvpid_single_context_retaining_globals}
        if not {int(known): bit for known, bit in supported.items()}.get(kind) or vpid >> 16:
            return False
        everybody = kind == InvvpidType.ALL_CONTEXT
        if not everybody and not vpid:
            return False
        if kind == InvvpidType.INDIVIDUAL_ADDRESS and not is_canonical(linear_address):
            return False
        if self.entered is not None and self.entered.vpid and (everybody or vpid in self._vpids):
            self.flush_linear()
        return True

    def flush_linear(self) -> None:
        """Forget every linear and combined mapping that the engine has."""
        if self.engine is not None:
            self.engine.flush_tlb()
