"""A VP that its parent dispatches: an intercept is the answer of a call, not a message in a slot.

Hyper-V's root scheduler gives each VP a thread of root's worker, which sits in HvCallDispatchVp while the VP runs. The
call comes back when there is something for the parent to do: the intercept message stands in the page that the parent
has mapped for it, the registers in another, and what the parent changes there the VP has when it is dispatched again.

Here the hypervisor goes on choosing who runs, and the thread is a function: where the call would come back it is
called, and what it returns are the flags of the next call. `docs/decisions/0021-a-worker-dispatches-its-vps.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.registers.register_page import INVALID, RegisterPage
from hv.hypervisor.registers.state_pages import MessagePage
from hv.hypervisor.verdicts import ADVANCE, ASK_PARENT, Verdict
from hv.hypervisor.vps.root_vp import HANDLER_TICKS, RootVirtualProcessor
from hv.instructions.moves import Move
from hv.spec.hypercalls.vps import DispatchVpFlags
from hv.spec.synic import HvMemoryAccessInfo, HvMessageHeader, HvMessageType, IoPortIntercept, MemoryIntercept
from hv.spec.vp_state import HvRegisterPage, HvRegisterPageDirtyFlags
from hv.trace.events import InterceptCompleted, InterceptSent

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

Thread = Callable[[], int]              # root's, behind HvCallDispatchVp: the flags of its next call

_U64 = (1 << 64) - 1
_CLEAR_SUSPEND = DispatchVpFlags(clear_intercept_suspend=1).raw
_PORT, _PORT_SIZE = HvMessageType.X64_IO_PORT_INTERCEPT, IoPortIntercept.SIZE
_PUT_PORT_MESSAGE = Struct("<" + HvMessageHeader.FORMAT + IoPortIntercept.FORMAT).pack_into
_UNMAPPED, _MEMORY_SIZE = HvMessageType.UNMAPPED_GPA, MemoryIntercept.SIZE
_PUT_MEMORY_MESSAGE = Struct("<" + HvMessageHeader.FORMAT + MemoryIntercept.FORMAT).pack_into
_GVA_GPA_VALID = HvMemoryAccessInfo(gva_valid=1, gva_gpa_valid=1).raw
_NAMED = Struct("<QQ32xQQ64xQ").unpack              # of RAX .. R15 and RIP: RAX, RCX, RSI, RDI, RIP
_DIRTY_RIP = HvRegisterPageDirtyFlags(instruction_pointer=1).raw
_DIRTY_BOTH = HvRegisterPageDirtyFlags(instruction_pointer=1, general_purpose=1).raw
_PUT_HEAD = Struct(f"{len(INVALID)}s").pack_into
_SIMPLE = (_DIRTY_RIP, _DIRTY_BOTH)
_ANSWER = HvRegisterPage.picker("dirty", "rip").unpack_from
_GENERAL = HvRegisterPage.offset_of("gp_registers")


class DispatchedVp:
    """What is kept of *vp*: its two pages, and the *thread* for it of root's *root_vp*."""

    def __init__(self, vp: VirtualProcessor, registers: RegisterPage, message: MessagePage,
                 root_vp: RootVirtualProcessor, thread: Thread) -> None:
        self.vp, self._root_vp, self.thread = vp, root_vp, thread
        self._registers, self._message = registers, message.spa
        self._page, self._sender = registers.spa, vp.partition.id
        memory = registers.reader.memory        # root is Python: nobody has translated code of its pages
        self._ram, self._words = memory.view, memory.words

    def ask_port(self, port: int, size: int, access: int, length: int) -> Verdict:
        """IN or OUT, *length* bytes long, is shown, and answered at once."""
        vp, shown = self.vp, self.vp.shown
        general, rflags = self._registers.fill()
        rax, rcx, rsi, rdi, rip = _NAMED(general)
        _PUT_PORT_MESSAGE(
            self._ram, self._message, _PORT, _PORT_SIZE, 0, 0, self._sender, vp.index, length | shown.cr8 << 4, access,
            shown.state, *shown.cs, rip, rflags, port, size, 0, 0, rax, b"", *shown.ds, *shown.es, rcx, rsi, rdi)
        return self._come_back(_PORT, rip, rip + length & _U64)

    def ask_memory(self, gpa: int, gva: int, move: Move) -> Verdict:
        """*move* to or from *gpa*, which *gva* leads to and where nothing is mapped, is shown, and answered at once."""
        vp, shown, code = self.vp, self.vp.shown, move.code
        general, rflags = self._registers.fill()
        rip = _NAMED(general)[-1]
        _PUT_MEMORY_MESSAGE(
            self._ram, self._message, _UNMAPPED, _MEMORY_SIZE, 0, 0, self._sender, vp.index, shown.cr8 << 4,
            0 if move.value is None else 1, shown.state, *shown.cs, rip, rflags, intercepts.CACHE_WRITE_BACK, len(code),
            _GVA_GPA_VALID, shown.cr8, 0, gva, gpa, code)
        verdict = self._come_back(_UNMAPPED, rip, rip + move.length & _U64)
        if verdict is ADVANCE:
            vp.regs.clear_resume_flag()         # which the EPT violation has set
        return verdict

    def _come_back(self, kind: int, rip: int, next_rip: int) -> Verdict:
        """The parent's thread goes on, and dispatches the VP again. Mostly the instruction is done then, and there are
        results in general registers at the most."""
        vp, page = self.vp, self._page
        vp.intercept_suspend, vp.asked_at = True, rip
        vp.partition.awaiting[vp.index] = kind
        vp.pass_time(HANDLER_TICKS)
        flags = self._tell(kind) if vp.trace.listening else self.thread()
        if not flags & _CLEAR_SUSPEND or not vp.intercept_suspend:
            return ASK_PARENT           # it has answered by hypercalls, or does so later
        dirty, new_rip = _ANSWER(self._ram, page)
        if dirty not in _SIMPLE or new_rip != next_rip or vp.explicit_suspend:
            self._go_on()
            return ASK_PARENT
        if dirty != _DIRTY_RIP:
            first = page + _GENERAL >> 3
            vp.regs.gpr[:] = self._words[first : first + 16]
        _PUT_HEAD(self._ram, page, INVALID)
        vp.intercept_suspend = False
        del vp.partition.awaiting[vp.index]
        if vp.trace.listening:
            vp.trace.emit(InterceptCompleted(kind, vp.partition.id, vp.index))
        return ADVANCE

    def _tell(self, kind: int) -> int:
        """The thread goes on, for who listens."""
        vp, trace, root_vp = self.vp, self.vp.trace, self._root_vp
        trace.emit(InterceptSent(kind, vp.partition.id, vp.index))
        before, trace.place = trace.place, (root_vp.partition.id, root_vp.index)
        try:
            return self.thread()
        finally:
            trace.place = before

    # --- any other intercept ------------------------------------------------------------------------------

    def come_back_later(self) -> None:
        """The message is in its page: root's thread goes on as soon as root runs."""
        self._root_vp.returned.append(self)
        self._root_vp.kick()

    def go_on(self) -> None:
        """Root runs."""
        self.vp.hypervisor.on_reach(self.vp.partition)
        if self.thread() & _CLEAR_SUSPEND and self.vp.intercept_suspend:
            self._go_on()

    def _go_on(self) -> None:
        """The VP is dispatched again, with what its parent changed. A page with what no register can hold is refused:
        it goes on waiting."""
        with suppress(HypercallError):
            intercepts.complete(self.vp)

    def end(self) -> None:
        """Its parent dispatches it no more."""
        self.vp.dispatched = None
        if self in self._root_vp.returned:
            self._root_vp.returned.remove(self)
