"""How a hypercall is declared: `@hypercall(code, input=..., output=..., rep_input=..., privilege=...)`.

A simple call is a function of (call, input) that returns its output layout or None. A call with a variable header gets
that next, as a tuple of u64. A rep call's last argument is the `Reps`: it iterates over it, and whatever it had
finished when it raises is counted as completed. The iteration may end before the last element: then the handler
returns as usual, and is called again for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hv.hypervisor.errors import HypercallError
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HvInputVtl
from hv.spec.layout import Layout

if TYPE_CHECKING:
    from hv.hypervisor.hypervisor import Hypervisor, IommuDriver
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor
    from hv.machine.clock import VirtualClock

FAST_INPUT_SIZE = 16            # bytes in the two parameter registers of a fast call
ATTEMPT_TICKS = 100_000         # 50 us: so long a rep call goes on before it lets others have their turn
REP_TICKS = 400                 # what one rep costs in virtual time
F = TypeVar("F", bound=Callable[..., Any])


class Declaration(NamedTuple):
    """One call: its handler and the shape of what it takes and gives."""

    code: HypercallCode
    handler: Callable[..., Any]
    input: type[Layout] | None
    output: type[Layout] | None
    rep: bool
    rep_input: type[Layout] | None
    rep_output: type[Layout] | None
    variable: bool                      # units of 8 bytes may follow the fixed input
    privilege: int
    reserved: int                       # bits of the input, as a little-endian number, that must be zero
    input_size: int                     # bytes of the fixed input, or header
    output_size: int                    # bytes of the fixed output
    fits_registers: bool                # its fixed input fits the two parameter registers, and it has no output


HYPERCALLS: dict[int, Declaration] = {}


def hypercall(code: HypercallCode, *, input: type[Layout] | None = None, output: type[Layout] | None = None,
              rep: bool = False, rep_input: type[Layout] | None = None, rep_output: type[Layout] | None = None,
              variable: bool = False, privilege: int = 0) -> Callable[[F], F]:
    """Register the decorated function for *code*; TypeError, naming both, when the code has a handler already.

    *rep* is implied by a list layout. Fields named reserved or padding are RsvdZ.
    """
    def register(handler: F) -> F:
        other = HYPERCALLS.get(code)
        if other is not None:
            raise TypeError(f"{code.name} has two handlers: {_name(other.handler)} and {_name(handler)}")
        is_rep = rep or rep_input is not None or rep_output is not None
        size, output_size = input.SIZE if input else 0, output.SIZE if output else 0
        HYPERCALLS[int(code)] = Declaration(
            code, handler, input, output, is_rep, rep_input, rep_output, variable, int(privilege),
            _reserved(input) if input else 0, size, output_size, size <= FAST_INPUT_SIZE and not output_size)
        return handler
    return register


def _name(handler: Callable[..., Any]) -> str:
    return f"{handler.__module__}.{handler.__qualname__}"


def _reserved(layout: type[Layout]) -> int:
    bits = 0
    for name, (offset, kind) in layout.FIELDS.items():
        if kind.layout is not None and kind.count == 1:
            bits |= _reserved(kind.layout) << 8 * offset
        elif name.startswith(("reserved", "padding")):
            bits |= (1 << 8 * kind.size) - 1 << 8 * offset
    return bits


class Call:
    """Who calls (*vp* of *partition*), and the lookups every handler starts with."""

    __slots__ = ("hypervisor", "partition", "rep_ticks", "vp")

    def __init__(self, hypervisor: Hypervisor, vp: VirtualProcessor) -> None:
        self.hypervisor, self.vp, self.partition = hypervisor, vp, vp.partition
        self.rep_ticks = 0              # that its rep calls took

    def find(self, partition_id: int) -> Partition:
        """Itself or a child; INVALID_PARTITION_ID, ACCESS_DENIED."""
        return self.hypervisor.find_partition(self.partition, partition_id)

    def find_child(self, partition_id: int) -> Partition:
        """A child; INVALID_PARTITION_ID, ACCESS_DENIED (also for itself)."""
        return self.hypervisor.find_child(self.partition, partition_id)

    def find_vp(self, partition: Partition, vp_index: int) -> VirtualProcessor:
        """A VP of *partition*; INVALID_VP_INDEX."""
        return self.hypervisor.find_vp(self.vp, partition, vp_index)

    @property
    def iommu(self) -> IommuDriver:
        """The IOMMU's driver, for calls that mean nothing without one; FEATURE_UNAVAILABLE."""
        if self.hypervisor.iommu is None:
            raise HypercallError(HvStatus.FEATURE_UNAVAILABLE, "the machine has no IOMMU")
        return self.hypervisor.iommu

    def emit(self, event: Any) -> None:
        """Tell the trace, if anybody listens."""
        if self.hypervisor.trace.listening:
            self.hypervisor.trace.emit(event)


class Reps:
    """The elements of a rep call, from rep start on. One counts as done when the next is asked for.

    With a *caller* there are as many as fit the time until the next timer or ATTEMPT_TICKS, one at least, and no more
    when an interrupt waits for it; without, there are all.
    """

    def __init__(self, data: bytes, layout: type[Layout] | None, start: int, count: int,
                 caller: Call | None = None) -> None:
        self._data, self._layout, self.start, self.count = data, layout, start, count
        self.done = start               # absolute
        self.output = bytearray()
        self._heavier = 0               # ticks for which reps were more work than usual
        self._vp = caller.vp if caller else None
        self._at_once = _reps_at_once(caller.hypervisor.clock) if caller else count
        self._stop = min(count, start + self._at_once)

    def __iter__(self) -> Iterator[Any]:
        """Each element parsed; its number when the call has no list."""
        layout, vp, n = self._layout, self._vp, self.start
        while n < self._stop:
            if n > self.start and vp is not None and vp.event_pending:
                return
            yield n if layout is None else layout.parse(self._data, n * layout.SIZE)
            n = self.done = n + 1

    def unpacked(self, element: Struct) -> Iterator[tuple[Any, ...]]:
        """`__iter__` for a list whose elements *element* takes apart: fewer steps, for lists that every exit has."""
        vp, n = self._vp, self.start
        while n < self._stop:
            if n > self.start and vp is not None and vp.event_pending:
                return
            yield element.unpack_from(self._data, n * element.size)
            n = self.done = n + 1

    def weigh(self, weight: int) -> None:
        """The rep being done was as much work as *weight* usual ones, and those after it are taken to be so too."""
        self._heavier += (weight - 1) * REP_TICKS
        if self._vp is not None:
            done = self.done + 1
            left = self._at_once - (done - self.start) - self._heavier // REP_TICKS
            self._stop = min(self.count, done + max(left // weight, 0))

    @property
    def ticks(self) -> int:
        """What those done cost."""
        return (self.done - self.start) * REP_TICKS + self._heavier

    def answer(self, element: Layout) -> None:
        """The output element of the rep being done."""
        self.output += element.pack()


def _reps_at_once(clock: VirtualClock) -> int:
    deadline = clock.next_deadline()
    ticks = ATTEMPT_TICKS if deadline is None else min(deadline - clock.tsc, ATTEMPT_TICKS)
    return max(ticks // REP_TICKS, 1)


def require(condition: object, text: str, status: HvStatus = HvStatus.INVALID_PARAMETER) -> None:
    """HypercallError(*status*) unless *condition*; *text* says what was found."""
    if not condition:
        raise HypercallError(status, text)


def require_vtl0(input_vtl: int) -> None:
    """Only the current trust level exists here: INVALID_PARAMETER for reserved bits, INVALID_VTL_STATE for another."""
    if not input_vtl:
        return
    vtl = HvInputVtl(input_vtl)
    require(not input_vtl & HvInputVtl.RESERVED, f"reserved bits in input VTL {input_vtl:#x}")
    require(not vtl.target_vtl, f"vtl {vtl.target_vtl} does not exist", HvStatus.INVALID_VTL_STATE)


def require_any_node(proximity_domain_info: int) -> None:
    """There is one proximity domain, 0; INVALID_PROXIMITY_DOMAIN_INFO for any other."""
    node = proximity_domain_info & 0xFFFF_FFFF
    require(node == 0, f"proximity domain {node} does not exist", HvStatus.INVALID_PROXIMITY_DOMAIN_INFO)
