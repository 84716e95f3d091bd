"""One CPU engine: where a partition's machine code runs. The VPs of the partition are contexts on it.

The engine runs guests in its own hardware-assisted guest mode, entered by writing its state rather than by an
instruction, so every sensitive instruction leaves the guest in C at full speed in between. What it reports
(`svm.py`) becomes a `Trap` here, the machine's own word for "the guest did something that is not for it to decide".

The trap handler runs inside the engine's hook: when it returns True the guest goes on without leaving the run, which is
what makes an exit cost about a microsecond. `run` returns only when the budget is used up or a handler says stop.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

from unicorn import (
    UC_ARCH_X86,
    UC_ERR_FETCH_PROT,
    UC_HOOK_BLOCK,
    UC_HOOK_EDGE_GENERATED,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_HOOK_MEM_READ_UNMAPPED,
    UC_MODE_64,
    UC_PROT_ALL,
    UC_PROT_READ,
    UC_PROT_WRITE,
    Uc,
    unicorn_const,
    x86_const,
)
from unicorn.unicorn_py3.unicorn import uclib

from hv.machine import context as at
from hv.machine import guest_mode, stubs
from hv.machine.breakpoints import Breakpoints
from hv.machine.countdown import Countdown
from hv.machine.debug_addresses import DebugAddresses
from hv.machine.exposure import Exposure
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.half_made_flags import overwrites_operand
from hv.machine.hooks import EVERY_INSTRUCTION, PythonHooks
from hv.machine.nested import LARGE
from hv.machine.paging import LINEAR_32, LINEAR_64, PagingMode, translate
from hv.machine.ram import PhysicalMemory, pages_of
from hv.machine.state import FLAGS_KEPT, ProcessorState
from hv.machine.traps import BY_NUMBER, INSTRUCTION_TRAPS, MSR_NUMBER, UNDEFINED, Trap
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, PAGE_SIZE, Vector

ALIAS_BASE = 1 << 37                # RAM once more, not executable
_FLUSH = ctypes.c_int(unicorn_const.UC_CTL_TLB_FLUSH | unicorn_const.UC_CTL_IO_WRITE << 30)
_REMOVE_CODE = unicorn_const.UC_CTL_TB_REMOVE_CACHE | 2 << 26 | unicorn_const.UC_CTL_IO_WRITE << 30
_FORGET_CODE = unicorn_const.UC_CTL_TB_FLUSH | unicorn_const.UC_CTL_IO_WRITE << 30
_HANDLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_NEW_BLOCK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.c_void_p, ctypes.c_void_p)
_REFUSALS = frozenset({Vector.SS, Vector.GP, Vector.PF, Vector.AC})
_EXCEPTION = Trap.EXCEPTION
_NOWHERE = 0                        # an address at which the engine would stop: there is none
_CC_OP, _EFLAGS, _RIP = at.CC_OP // 4, at.EFLAGS // 8, at.RIP // 8
_NESTED_FAULT, _RDMSR, _WRMSR = Trap.NESTED_FAULT, Trap.RDMSR, Trap.WRMSR      # naming a member costs a call
_ERROR_CODE = at.ERROR_CODE // 4
_FETCHED, _CODE = stubs.ExitFrame.fetched.offset // 8, stubs.ExitFrame.code.offset // 8

TrapHandler = Callable[[Trap, int], bool]
# The system-physical page; readable, writable, executable; all of its 2 MiB may be entered at once.
Translation = tuple[int, bool, bool, bool, bool]

# A page that is only shown for a moment is asked for each time, so "nothing was asked for" is not what ends a step.
_MOST_ATTEMPTS = 16             # at an instruction that moves nothing: one that jumps to itself


class EngineError(Exception):
    """The engine itself gave up (an internal error of Unicorn, not a guest's fault)."""


def _progress(state: ProcessorState) -> tuple[int, int, int]:
    """Differs when an instruction was done, but for a jump to itself: LOOP and REP move RCX, CALL and RET RSP."""
    return state.rip, state.rcx, state.rsp


def _native(name: str) -> int:
    return ctypes.cast(getattr(uclib, name), ctypes.c_void_p).value or 0


class Engine:
    """A CPU engine over *memory*, counting its work in *counter* (which several engines share)."""

    def __init__(self, memory: PhysicalMemory, counter: stubs.WorkCounter, code_buffer_bytes: int = 16 << 20) -> None:
        at.calibrate()
        self.memory = memory
        self.counter = counter
        self._uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self._uc.ctl_set_cpu_model(at.CPU_MODEL)
        self._uc.ctl_set_tcg_buffer_size(code_buffer_bytes)
        self._handle = self._uc._uch
        self._uc.mem_map_ptr(0, memory.size, UC_PROT_ALL, memory.host_address)
        self._uc.mem_map_ptr(ALIAS_BASE, memory.size, UC_PROT_READ | UC_PROT_WRITE, memory.host_address)
        self._private = guest_mode.PrivateMemory(self._uc, ALIAS_BASE)
        self.nested, self._fault = self._private.nested, self._private.fault
        self._uc.ctl_exits_enabled(True)        # no `until` address to probe
        self._flat = at.allocate(self._uc)      # without paging
        uclib.uc_context_save(self._handle, self._flat)
        self._template = guest_mode.template(self._uc, self.nested.root)
        self._scratch = at.allocate(self._uc)
        self._failure: BaseException | None = None
        self._stopped_by_trap = False
        self._refused_fetch = self._misplaced = False
        self._entered, self._shown = 0, False       # since the start: pages to stay, page tables for a moment
        self._alone_at = -1                         # RIP of the instruction that `run_alone` lets run
        self.breakpoints = Breakpoints(self._uc, lambda: self.current, self._forget_all_code, self._guarded)
        self.debug_addresses = DebugAddresses(self._uc, lambda: self.current, self.flags, counter,
                                              self._forget_all_code)
        self.countdown = Countdown(self._handle, _native("uc_emu_stop"), self._forget_all_code)
        self.on_countdown: Callable[[], None] = lambda: None    # it is over; may raise
        self._counted = False                       # the last run was limited to a number of instructions
        self.current: ProcessorState | None = None
        self.handed_over = 0                        # how often one state followed another inside a run
        self._held: ctypes.c_void_p | None = None   # the context whose registers the engine itself has
        self.on_trap: TrapHandler = lambda trap, detail: False
        self.second_level: Callable[[int, int], Translation | None] = lambda gpa, access: None
        # The engine may write to this address, it says: is it only to be read, as part of a page table, by the
        # instruction at RIP? Then whether that accesses the page as data too; else None.
        self.only_walks: Callable[[int], bool | None] = lambda gpa: None
        # Address and error code of a nested fault: what `on_trap` would answer, if that is known, and done.
        self.known_access: Callable[[int, int], bool | None] = lambda gpa, code: None
        self.fetch_code: Callable[[], bytes] = self._code_in_ram    # at RIP of `current`, from outside the engine
        self._states: list[ProcessorState] = []
        self._stale: dict[int, tuple[int, int]] = {}    # page -> the part of it whose translated code is out of date
        self._device_pages: set[int] = set()        # guest-physical pages behind which there is a device
        self._devices: list[tuple[int, int]] = []   # system-physical first and end of each
        self._flag_word = ctypes.c_uint64()
        self._flag_place = ctypes.byref(self._flag_word)
        self._install_hooks()
        memory.engines.append(self)

    # --- set-up --------------------------------------------------------------------------------------

    def _install_hooks(self) -> None:
        self._frame = stubs.ExitFrame(0, _native("uc_context_save"), _native("uc_context_restore"), 0,
                                      _native("uc_vmem_read"),
                                      0, (ctypes.c_uint8 * 16)(), at.RIP, at.SEGMENTS + 24 + 8)
        self._asked = stubs.InstructionFrame(0, 0, 0, 0, 0, _native("uc_reg_read"), x86_const.UC_X86_REG_RCX,
                                             x86_const.UC_X86_REG_MSR, (0x4000_0000, 0))
        self._asked_words = memoryview(self._asked).cast("B").cast("Q")     # word 0 is the kind
        self._frame_words = memoryview(self._frame).cast("B").cast("Q")
        self._code = memoryview(self._frame).cast("B")[stubs.ExitFrame.code.offset :]
        self.counter.stop, self.counter.reg_read = _native("uc_emu_stop"), _native("uc_reg_read")
        self._handler = _HANDLER(self.on_intercept)
        self._frame.handler = ctypes.cast(self._handler, ctypes.c_void_p).value
        # Never called: while it is there, the engine takes no page of code for data, however often it was written to.
        self._add_hook(UC_HOOK_MEM_READ_UNMAPPED, _native("uc_emu_stop"), self._frame, last=self.memory.size - 1)
        self._exposure = Exposure(self, self.nested, self._frame)
        self._new_block = _NEW_BLOCK(self._on_new_block)
        self._add_hook(UC_HOOK_EDGE_GENERATED, ctypes.cast(self._new_block, ctypes.c_void_p).value or 0, self._frame)
        self._python_hooks: PythonHooks | None = None
        self._counting = 0
        if stubs.available():
            self._install_native_hooks()
        else:
            self._python_hooks = PythonHooks(self._add_hook, self._frame, self._asked, self.counter)
            self._exposure.python_hooks = self._python_hooks
            self._counting = EVERY_INSTRUCTION

    def _install_native_hooks(self) -> None:
        native = stubs.routines()
        self._add_hook(UC_HOOK_INTR, native.exit, self._frame)
        self._add_hook(UC_HOOK_BLOCK, native.block, self.counter)
        for instruction, routine in ((x86_const.UC_X86_INS_IN, native.read_port),
                                     (x86_const.UC_X86_INS_OUT, native.write_port),
                                     (x86_const.UC_X86_INS_SYSCALL, native.syscall),
                                     (x86_const.UC_X86_INS_SYSENTER, native.sysenter)):
            self._add_hook(UC_HOOK_INSN, routine, self._asked, instruction)

    def _add_hook(self, kind: int, routine: int, user: ctypes.Structure, *extra: int, last: int | None = None) -> None:
        """Hook *routine* in; for addresses 0..*last* when that is given, else for all."""
        handle = ctypes.c_size_t()
        first, end = (1, 0) if last is None else (0, last)
        status = uclib.uc_hook_add(self._handle, ctypes.byref(handle), kind, ctypes.c_void_p(routine),
                                   ctypes.byref(user), ctypes.c_uint64(first), ctypes.c_uint64(end),
                                   *(ctypes.c_int(value) for value in extra))
        if status:
            raise EngineError(f"the engine refuses hook {kind} (uc_hook_add: {status})")

    # --- states --------------------------------------------------------------------------------------

    def new_state(self) -> ProcessorState:
        """The state of a new VP on this engine, all registers as the engine's reset leaves them."""
        context = at.allocate(self._uc)
        uclib.uc_context_save(self._handle, context)        # fills the API's header
        at.view(context)[:] = self._template
        state = ProcessorState(context, self._resolve_flags, self.flush_tlb)
        state.fp.reset()
        self._states.append(state)
        return state

    def _resolve_flags(self, context: ctypes.c_void_p) -> int:
        """The arithmetic flags of a context in which they stand in the engine's lazy form: what they are made of has
        not changed since the engine ran it, or it was never run."""
        held = self._held is context
        if not held:
            uclib.uc_context_save(self._handle, self._scratch)
            uclib.uc_context_restore(self._handle, context)
        uclib.uc_reg_read(self._handle, x86_const.UC_X86_REG_EFLAGS, self._flag_place)
        if not held:
            uclib.uc_context_restore(self._handle, self._scratch)
        return self._flag_word.value

    def save_image(self, state: ProcessorState) -> bytes:
        """Everything about *state*, opaque; `load_image` puts it back."""
        return bytes(at.view(state.context))

    def load_image(self, state: ProcessorState, image: bytes) -> None:
        """Put back what `save_image` gave, on the same engine. What is watched stays as it is."""
        at.view(state.context)[:] = image
        state.watch(state.watched)
        self._held = None
        self.flush_tlb()

    # --- translation ---------------------------------------------------------------------------------

    def flush_tlb(self) -> None:
        """Drop what the engine cached of linear translations."""
        uclib.uc_ctl(self._handle, _FLUSH)

    def invept(self) -> None:
        """Drop everything cached of the second level too."""
        self.nested.clear()
        self._device_pages.clear()
        self.flush_tlb()

    def forget(self) -> None:
        """Drop everything cached, translated code too: from here on it is an engine that has run nothing. Outside of a
        run."""
        self.memory.unwatch_code(self._code_written)
        self.nested.executable.clear()
        self._stale.clear()
        self._private.clear_open_bus()
        self.countdown.end()
        self.debug_addresses.forget()
        self._forget_all_code()
        self.invept()
        self._held = None
        self._counted = False

    def save_images(self) -> list[tuple[ProcessorState, bytes]]:
        """`save_image` of each of its states."""
        return [(state, self.save_image(state)) for state in self._states]

    def _code_written(self, spa: int, data: bytes) -> None:
        """Somebody outside wrote to a page this engine has translated code of."""
        end = spa + len(data)
        first, last = self._stale.get(spa >> 12, (spa, end))
        self._stale[spa >> 12] = min(first, spa), max(last, end)

    # A page may stand in two partitions. The engine notices stores to code that it translated itself, and no others: so
    # where one engine has code, all others are refused to store, and the first store takes the code from that one.

    def _begin_code(self, page: int) -> None:
        """There will be translated code of *page* here."""
        self.nested.set_executable(page, True)
        self.memory.watch_code(page, self._code_written)
        for other in self.memory.engines:
            if other is not self:
                other.guard(page)

    def guard(self, page: int) -> None:
        """Another engine has code of *page*: the next store of this one must be noticed."""
        if self.nested.forget(page):
            self.flush_tlb()

    def _stores(self, page: int, access: int) -> bool:
        """*page*, of which others have code, may be entered writable: this *access* is a store, and they forget it."""
        if not access & Access.WRITE.value:
            return False
        for other in self.memory.engines:
            if other is not self:
                other.end_code(page)
        return True

    def end_code(self, page: int) -> None:
        """Another engine stores to *page*: whatever code was translated of it is none any more."""
        self._code_written(page << 12, bytes(PAGE_SIZE))
        self.nested.set_executable(page, False)
        self.memory.unwatch_code(self._code_written, page)

    def distrust_code(self) -> None:
        """From inside a trap: what the engine executed at RIP is not what stands there. It is translated anew.

        # Simplified: an accessed or dirty flag that the engine sets in a page table is no store to it, so code that is
        a page table at the same time is run as it was before, unless a trap tells.
        """
        assert self.current is not None, "a trap without a running VP"
        for page in self._pages_at(self.current):
            self._code_written(page << 12, bytes(PAGE_SIZE))

    def _forget_stale_code(self) -> None:
        """Drop translations of the ranges written from outside. The engine names code by linear address, so it is asked
        in a state without paging, where linear and system-physical addresses are the same."""
        stale, self._stale = self._stale, {}
        uclib.uc_context_save(self._handle, self._scratch)
        uclib.uc_context_restore(self._handle, self._flat)
        self.flush_tlb()
        for first, end in stale.values():
            uclib.uc_ctl(self._handle, ctypes.c_int(_REMOVE_CODE), ctypes.c_uint64(first), ctypes.c_uint64(end))
        uclib.uc_context_restore(self._handle, self._scratch)
        self.flush_tlb()

    def map_mmio(self, spa: int, size: int, read: Callable[[int, int], int],
                 write: Callable[[int, int, int], None]) -> None:
        """System-physical *spa* is a device: `read(offset, size)`, `write(offset, size, value)`."""
        self._devices.append((spa, spa + size))
        self._uc.mmio_map(spa, size, lambda _uc, offset, width, _: self._guarded(lambda: read(offset, width)), None,
                          lambda _uc, offset, width, value, _: self._guarded(lambda: write(offset, width, value)), None)

    def _guarded(self, action: Callable[[], Any]) -> int:
        """Run *action* inside an engine callback: an exception stops the run and is raised from `run`."""
        try:
            return action() or 0
        except BaseException as error:
            self._failure = error
            uclib.uc_emu_stop(self._handle)
            return 0

    # --- running -------------------------------------------------------------------------------------

    def run(self, state: ProcessorState, until: int, window: bool = False, instructions: int = 0) -> bool:
        """Run *state* until the counter reaches *until*, or a handler stops it, or (window) interrupts are enabled.

        *instructions* other than 0 is a limit too, an expensive one: the engine drops its translations to count.
        True when a trap handler stopped it; then RIP is where the handler left it.
        """
        counter = self.counter
        if instructions or self.breakpoints.matter:
            self.breakpoints.begin(state, bool(instructions))
            if self.breakpoints.held:
                return True
        if instructions and not self._counted:
            self._forget_all_code()     # the engine counts only in code that it translates from now on
        self._counted = bool(instructions)
        if self.current is not state:
            self.adopt(state)
        counter.deadline, counter.window = until, window
        counter.limit = 0 if window or counter.skip else until
        refused_at, refusals, attempts, wasted = -1, 0, 0, 0
        while True:
            began = _progress(state) if instructions else None
            self._entered, self._shown = 0, False
            status = self._start(state, instructions and instructions + wasted)
            state = self.current or state       # another one may have taken over
            if status == UC_ERR_FETCH_PROT:
                refusals = refusals + 1 if state.rip == refused_at else 0
                refused_at = state.rip
                if refusals > 4:        # both pages of an instruction, stale and fresh: no more
                    refusals = -1
                    if not self.on_trap(Trap.EXCEPTION, self._overlooked_fault(state)):
                        return True
                    continue
                late = None if self._may_fetch(state) else Trap.NESTED_FAULT
                if late is not None and self.run_alone(state):
                    continue
            elif status:
                raise EngineError(f"the engine stopped with error {status} at {state.rip:#x}")
            elif self._misplaced:
                state.ignore_code_base()
                self._forget_all_code()     # or the block would be found the next time, without a word
                continue
            elif self._python_hooks is None or (late := self._python_hooks.deferred()) is None:
                stopped = self._stopped_by_trap or self.breakpoints.hit is not None or self.breakpoints.held
                if instructions and (self._entered or self._shown) and not stopped:
                    attempts, wasted = attempts + 1, max(0, wasted + 1 - self._entered)
                    if attempts < _MOST_ATTEMPTS and _progress(state) == began:
                        continue    # the engine counted the attempt that only told it where memory is
                return stopped
            if late is not None and not self.on_trap(late, 0):
                return True

    def adopt(self, state: ProcessorState) -> None:
        """Traps are those of *state* from here on, and it is what the engine goes on with.

        What the engine cached of linear translations stays when both translate by the same registers: nothing is in
        there that was loaded before the last flush of either, and processors may load translations whenever they like.
        """
        before, self.current = self.current, state
        self._frame.context = state.context.value
        if before is None or not before.translates_like(state):
            uclib.uc_ctl(self._handle, _FLUSH)

    def go_on(self, until: int, window: bool) -> None:
        """From inside a trap, after `adopt`: when it returns True the run goes on with `current`, as `run` would."""
        state, counter = self.current, self.counter
        assert state is not None, "nobody was adopted"
        if self.breakpoints.matter:
            self.breakpoints.begin(state, False)
            until = counter.done if self.breakpoints.held else until
        state.words[_EFLAGS] = state.words[_EFLAGS] & FLAGS_KEPT | 2    # the others stand apart while the engine runs
        self._held = state.context
        self.handed_over += 1
        counter.until = counter.deadline = until
        counter.window = window
        counter.limit = 0 if window or counter.skip else until

    def _forget_all_code(self) -> None:
        """Drop every translation: a hook, and the engine's own count, is only seen by code that is translated after."""
        uclib.uc_ctl(self._handle, ctypes.c_int(_FORGET_CODE))

    def _start(self, state: ProcessorState, instructions: int) -> int:
        """One stretch of the engine, from *state* and back into it; the API's status."""
        state.words[at.EFLAGS // 8] = state.rflags      # when the engine starts it takes all flags from here
        uclib.uc_context_restore(self._handle, state.context)
        self._held = state.context
        if self._stale:
            self._forget_stale_code()
        self._stopped_by_trap = self._refused_fetch = self._misplaced = False
        status = self._execute(state.words[_RIP], instructions or self._counting)
        if not self._stopped_by_trap and not self._asked.kind:
            uclib.uc_context_save(self._handle, (self.current or state).context)
        exposure = self._exposure
        if exposure.code or exposure.tables:
            exposure.hide()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self.countdown.over:
            self.on_countdown()
        return status

    def _execute(self, rip: int, instructions: int) -> int:
        """Guest code runs, from the moment this is called until it returns, but while one of our hooks is asked."""
        status: int = uclib.uc_emu_start(self._handle, rip, _NOWHERE, _NOWHERE, instructions)
        return status

    def _refused_fetch_at(self, state: ProcessorState) -> int | None:
        """Guest-physical address of the code that was refused; None when the guest's own tables decide."""
        for gpa in self._code_at(state):
            if self.nested.refuses_fetch(gpa) or gpa >> 12 in self._device_pages:
                return gpa
        return None

    def _code_at(self, state: ProcessorState) -> Iterator[int]:
        """The guest-physical addresses of the page of RIP, and of the next one for an instruction that crosses."""
        try:
            yield from self._translated_code(state)
        except (GuestFault, NestedFault):
            return

    def _translated_code(self, state: ProcessorState) -> Iterator[int]:
        """The same, or the fault of the guest's own tables.

        Looked for in software: asking the engine could fault, and outside a run a fault in there ends the process.
        """
        wrap = LINEAR_64 if state.bits == 64 else LINEAR_32
        first = state.words[(at.SEGMENTS + 24 + 8) // 8] + state.rip & wrap     # in 64-bit code too, as the engine does
        mode = PagingMode.of(state)
        for linear in (first, (first | 0xFFF) + 1 & wrap):
            yield translate(mode, linear, Access.EXECUTE.value, state.cpl, self._load)

    def _overlooked_fault(self, state: ProcessorState) -> int:
        """The vector of the fault at RIP that the engine does not see (reserved bits of a PDPTE), ready to trap."""
        try:
            for _ in self._translated_code(state):
                pass
        except GuestFault as fault:
            state.dwords[_ERROR_CODE] = fault.error_code or 0
            self._private.fault_address = fault.address or 0
            return fault.vector
        except NestedFault:
            pass
        raise EngineError(f"the engine refuses for ever to fetch at {state.rip:#x}")

    def run_alone(self, state: ProcessorState) -> bool:
        """A fetch was refused at RIP, maybe that of a later instruction of the block: the engine finds out when it
        translates. Let the one at RIP be a block of its own, as behind STI; False when it was, and is itself refused.
        """
        if state.interrupt_shadow:
            if self._alone_at == state.rip:
                state.interrupt_shadow = False
            return False
        state.interrupt_shadow, self._alone_at = True, state.rip
        return True

    def _load(self, gpa: int, size: int) -> int:
        """A page-table entry of the guest."""
        found = self.second_level(gpa, Access.READ.value)
        if found is None:
            raise NestedFault(gpa, Access.READ)
        if found[0] >= self.memory.size:
            return (1 << 8 * size) - 1
        return int.from_bytes(self.memory.read(found[0] | gpa & 0xFFF, size), "little")

    def stop(self) -> None:
        """From inside a hook: the run ends before the next block."""
        uclib.uc_emu_stop(self._handle)

    def flags(self) -> int:
        """RFLAGS, from inside a hook."""
        uclib.uc_reg_read(self._handle, x86_const.UC_X86_REG_EFLAGS, self._flag_place)
        return self._flag_word.value

    def watch_interrupt_flag(self, wanted: bool) -> None:
        """Change the *window* of the run that is going on: stop as soon as interrupts are enabled."""
        self.counter.window = wanted
        self.counter.limit = 0 if wanted else self.counter.deadline

    def clear_in_flight(self, state: ProcessorState) -> None:
        """An event is delivered by software: the engine must not think one is in flight, or that an INT came before."""
        state.dwords[at.IN_FLIGHT // 4] = 0xFFFF_FFFF
        state.dwords[at.EXCEPTION_IS_INT // 4] = 0

    def pass_one_block(self) -> None:
        """Let the next block run whatever the limits say (an interrupt shadow is one instruction, and one block)."""
        self.counter.skip = 1

    def _on_new_block(self, _uc: int, block: Any, _previous: int, _frame: int) -> None:
        """The engine translated a block. One of 64-bit code that is not at RIP was reached by a far transfer to a code
        segment with a base, which the engine adds: it must not run there."""
        uclib.uc_reg_read(self._handle, x86_const.UC_X86_REG_RIP, ctypes.byref(self._flag_word))
        if block[0] != self._flag_word.value:
            uclib.uc_context_save(self._handle, self._scratch)
            if at.view(self._scratch)[at.HFLAGS + 1] & at.HFLAG_CS64 >> 8:
                self._misplaced = True
                uclib.uc_emu_stop(self._handle)

    def on_intercept(self, _uc: int, number: int, _frame: int) -> int:
        """The engine's hook: name the trap, ask the handler, say whether the changed state is to be loaded."""
        try:
            if number == MSR_NUMBER:
                state, detail = self.current, 0
                assert state is not None, "a trap without a running VP"
                if self._asked_words[0]:
                    trap = self._asked_instruction(state)
                else:
                    trap = _WRMSR if state.dwords[_ERROR_CODE] & 1 else _RDMSR
            else:
                trap, detail = BY_NUMBER.get(number, UNDEFINED)
                if trap is _NESTED_FAULT:
                    assert self.current is not None, "a nested fault without a running VP"
                    again = self.known_access(self._fault[0], self.current.dwords[_ERROR_CODE])
                    if again is not None:
                        return 1 if again and not self._stale else self._leave(again)
                    mended = self._mend_flags()
                    if self._fill_nested():
                        return mended
                    if self.nested_fault()[1] == 2 and self._let_walk():
                        return 1
                    if self.current is not None and self.nested_fault()[1] == 4 and self.run_alone(self.current):
                        return 1
                if number < 0x100:
                    trap, detail = Trap.EXCEPTION, number
                if trap is _EXCEPTION and detail in _REFUSALS:
                    self._mend_flags()
            if self.on_trap(trap, detail):
                if self._stale:
                    self._forget_stale_code()
                return 1
        except BaseException as error:
            self._failure = error
        return self._leave(False)

    def _leave(self, go_on: bool) -> int:
        """The end of a hook that asked a handler, by what that said."""
        if go_on:
            if self._stale:
                self._forget_stale_code()
            return 1
        self._stopped_by_trap = True
        uclib.uc_emu_stop(self._handle)
        return 1

    def _mend_flags(self) -> bool:
        """An access to memory was refused: put right what the instruction did to the lazy flags before it."""
        state = self.current
        if state is None or self._python_hooks is not None:     # `hooks.py` has its own way
            return False
        operation = state.dwords[_CC_OP]
        if operation == at.CC_OP_EFLAGS:
            return False
        code = self.known_code()
        if not overwrites_operand(code, state.bits, operation, self._block_before):
            return False
        state.dwords[_CC_OP] = at.CC_OP_EFLAGS          # which are in the operand's place
        return True

    def _block_before(self) -> bytes | None:
        """The code of the block that runs, up to RIP."""
        assert self.current is not None, "a trap without a running VP"
        size = self.current.linear_rip - self.counter.block
        if not 0 <= size <= PAGE_SIZE:
            return None
        return b"".join(self._fetch(self.current, at, count) for at, count in pages_of(self.counter.block, size))

    def _code_in_ram(self) -> bytes:
        """The bytes at RIP up to the end of the page, where the engine's own fetch could be refused too."""
        assert self.current is not None, "a trap without a running VP"
        start = self.current.linear_rip
        return self._fetch(self.current, start, min(MAX_INSTRUCTION_LENGTH, PAGE_SIZE - start % PAGE_SIZE))

    def _fetch(self, state: ProcessorState, linear: int, size: int) -> bytes:
        """*size* bytes of code at *linear*, which do not cross a page; none when they are refused or not in RAM."""
        try:
            gpa = translate(PagingMode.of(state), linear, Access.EXECUTE.value, state.cpl, self._load)
        except (GuestFault, NestedFault):
            return b""
        found = self.second_level(gpa, Access.EXECUTE.value)
        if found is None or found[0] >= self.memory.size:
            return b""
        return self.memory.read(found[0] & -PAGE_SIZE | gpa % PAGE_SIZE, size)

    def _asked_instruction(self, state: ProcessorState) -> Trap:
        """The instruction whose routine read an MSR only to get here."""
        kind, self._asked_words[0] = self._asked_words[0], 0
        state.rcx = self._asked.rcx
        return INSTRUCTION_TRAPS[kind]

    def _fill_nested(self) -> bool:
        """The engine asks for a second-level translation; False when there is none for this access."""
        gpa, access = self.nested_fault()
        answer = self.second_level(gpa, access)
        if answer is None:
            return False
        self._exposure.kept = True
        self._entered += 1
        spa, readable, writable, executable, large = answer
        if not readable:
            return self._show_code(gpa, spa)
        if self.memory.watched_by_others(spa >> 12, self._code_written):
            writable, large = writable and self._stores(spa >> 12, access), False
        if spa >= self.memory.size:
            self._fill_bus(gpa, spa, writable)
        elif spa >> 12 in self.nested.executable:
            self._fill_code(gpa, spa, writable, executable, access)
        elif large:
            pages = range((spa & -LARGE) >> 12, (spa & -LARGE) + LARGE >> 12)
            self.nested.fill_large(gpa & -LARGE, spa & -LARGE, writable,
                                   self.memory.pages_watched_by_others(pages, self._code_written))
        else:
            self.nested.fill(gpa, spa, writable, False)
        return True

    def _fill_bus(self, gpa: int, spa: int, writable: bool) -> None:
        """Enter a page that is not RAM.

        # Simplified: what is written to an address at which nobody answers is there until another such page is used.
        """
        if any(first <= spa < end for first, end in self._devices):
            self._device_pages.add(gpa >> 12)
        else:
            self._private.clear_open_bus()
            spa = guest_mode.OPEN_BUS
        self.nested.fill(gpa, spa, writable, True)

    def _show_code(self, gpa: int, spa: int) -> bool:
        """The guest fetches from a page that it may not read; False when there is a device, which has no code."""
        if spa >= self.memory.size:
            return False
        self._begin_code(spa >> 12)
        self.nested.fill(gpa, spa, False, True)
        self._exposure.until_block(gpa & -PAGE_SIZE)
        return True

    def _let_walk(self) -> bool:
        """The engine is refused a page table because it may not be written to; True when reading it is all that is
        wanted, so the instruction is done with the page shown."""
        gpa, state = self.fault_address(), self.current
        as_data = self.only_walks(gpa)
        if as_data is None or state is None:
            return False
        answer = self.second_level(gpa, Access.READ.value)
        if answer is None or answer[0] >= self.memory.size:
            return False
        self.nested.fill(gpa, answer[0], True, answer[0] >> 12 in self.nested.executable)
        self._exposure.for_instruction(gpa & -PAGE_SIZE, state, as_data)
        self._shown = True
        return True

    def _fill_code(self, gpa: int, spa: int, writable: bool, executable: bool, access: int) -> None:
        """Enter a page that there is translated code of. By a *gpa* that nobody may fetch from, stores to it would not
        be noticed: it is read-only until one comes, and then there is no code of the page until it is fetched again.

        # Simplified: but for an instruction that stores to its own page by such an address; what it stores may be
        # executed late.
        """
        if executable or not access & Access.WRITE.value:
            self.nested.fill(gpa, spa, writable and executable, executable)
            return
        assert self.current is not None, "a nested fault without a running VP"
        page = spa >> 12
        self._code_written(page << 12, bytes(PAGE_SIZE))
        if page not in self._pages_at(self.current):
            self.nested.set_executable(page, False)
            self.memory.unwatch_code(self._code_written, page)
        self.nested.fill(gpa, spa, writable, False)
        self._forget_stale_code()

    def _pages_at(self, state: ProcessorState) -> list[int]:
        """The system-physical pages of RAM of the instruction at RIP: that of RIP, and the next one."""
        found = [self.second_level(gpa, Access.EXECUTE.value) for gpa in self._code_at(state)]
        return [answer[0] >> 12 for answer in found if answer is not None and answer[0] < self.memory.size]

    def _may_fetch(self, state: ProcessorState) -> bool:
        """A fetch was refused by the alias: let it through if the second level does, else note a nested fault."""
        self.flush_tlb()
        if state.ignore_code_base():
            return True
        gpa = self._refused_fetch_at(state)
        if gpa is None:
            return True             # what the engine had cached is gone now: it meets the guest's own fault
        answer = self.second_level(gpa, Access.EXECUTE.value)
        if answer is None or not answer[3] or answer[0] >= self.memory.size:
            self._private.fault_address = gpa
            self._refused_fetch = True
            return False
        spa, readable, writable, _, _ = answer
        if not readable:
            self.nested.drop(gpa)
            return True             # it is asked for again, and shown
        self._begin_code(spa >> 12)
        elsewhere = self.memory.watched_by_others(spa >> 12, self._code_written)
        self.nested.fill(gpa, spa, writable and not elsewhere, True)
        return True

    # --- what a trap left behind -----------------------------------------------------------------------

    def error_code(self) -> int:
        """Error code of the exception that trapped."""
        assert self.current is not None
        return int(self.current.dwords[_ERROR_CODE])

    def fault_address(self) -> int:
        """Linear address of the page fault that trapped (CR2 is not written yet)."""
        return self._private.fault_address

    def nested_fault(self) -> tuple[int, int]:
        """Guest-physical address and access (1 read, 2 write, 4 fetch) of the nested fault that trapped."""
        code = 16 if self._refused_fetch else self.error_code()
        return self.fault_address(), 4 if code & 16 else 2 if code & 2 else 1

    def code_bytes(self) -> bytes:
        """The bytes at RIP as the guest fetches them, up to 15 or the end of the page; empty when unknown."""
        return self._code[: self._frame_words[_FETCHED]].tobytes()

    def known_code(self) -> bytes:
        """`code_bytes`, read from the guest's memory where the trap could not: behind an access that was refused."""
        size = self._frame_words[_FETCHED]
        if size and self._python_hooks is None:
            return self._code[:size].tobytes()
        code = self.fetch_code()
        if code and self._python_hooks is None:
            self._code[: len(code)] = code
            self._frame_words[_FETCHED] = len(code)
        return code

    def code_head(self) -> int:
        """The first eight bytes at RIP as a little-endian number; 0 for what is in the next page, or unknown."""
        head: int = self._frame_words[_CODE]
        return head

    def port(self) -> tuple[int, int, int]:
        """Port, size in bytes and value (of OUT) of the I/O instruction that trapped."""
        asked = self._asked
        return asked.port & 0xFFFF, asked.size, asked.value & (1 << 8 * asked.size) - 1

    def write_control_register(self, state: ProcessorState, number: int, value: int) -> None:
        """Let the engine itself write CR0 or CR4, with all it keeps beside them. Inside a trap, for the current VP."""
        register = x86_const.UC_X86_REG_CR0 if number == 0 else x86_const.UC_X86_REG_CR4
        word = ctypes.c_uint64(value)
        uclib.uc_context_restore(self._handle, state.context)
        uclib.uc_reg_write(self._handle, register, ctypes.byref(word))
        uclib.uc_context_save(self._handle, state.context)
        state.refresh_hidden_flags()        # what is left to software depends on the mode
        self.flush_tlb()

    def drop_state(self, state: ProcessorState) -> None:
        """The VP of *state*, which is not running, is gone: its context is the host's again."""
        if self.current is state:
            self.current = None
        if self._held is state.context:
            self._held = None
        self._states.remove(state)
        state.forget()
        at.release(state.context)

    def retire(self) -> None:
        """It runs nothing any more, and nobody tells it of stores to code."""
        self.memory.unwatch_code(self._code_written)
        if self in self.memory.engines:
            self.memory.engines.remove(self)

    def close(self) -> None:
        """Give everything back to the host."""
        self.retire()
        for state in self._states:
            state.forget()
            at.release(state.context)
        self._states.clear()
        at.release(self._scratch)
        at.release(self._flat)
        self.breakpoints.close()
        self.debug_addresses.close()
        self._uc = None
