"""An engine over 4 MiB of RAM with an identity second level, and states in each mode to run on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine.engine import Engine, Translation, Trap
from hv.machine.ram import PhysicalMemory
from hv.machine.registers import Segment, Table, real_mode_segment
from hv.machine.state import ProcessorState
from hv.machine.stubs import WorkCounter
from hv.vmx.reset import init_registers
from tests.guest_runner import assemble

SIZE = 4 << 20
CODE, DATA, STACK = 0x10000, 0x20000, 0x30000
PML4, PDPT, DIRECTORY, TABLE = 0x1000, 0x2000, 0x3000, 0x4000
LEGACY, LEGACY_TABLE = 0x5000, 0x6000
GDT = 0x7000
FLAT_CODE_32, FLAT_CODE_64 = Segment(0x18, 0, 0xFFFFFFFF, 0xC09B), Segment(0x08, 0, 0xFFFFFFFF, 0xA09B)
FLAT_DATA = Segment(0x10, 0, 0xFFFFFFFF, 0xC093)
USER_CODE_32, USER_CODE_64 = Segment(0x2B, 0, 0xFFFFFFFF, 0xC0FB), Segment(0x2B, 0, 0xFFFFFFFF, 0xA0FB)
USER_DATA = Segment(0x33, 0, 0xFFFFFFFF, 0xC0F3)
TASK = Segment(0x20, 0x8000, 0x67, 0x8B)
DATA_SEGMENTS = ("ss", "ds", "es", "fs", "gs")


class EngineBox:
    """Traps are kept in `traps` as (trap, detail, rip, bytes); `answer` decides about each (True: go on)."""

    def __init__(self, memory: PhysicalMemory | None = None) -> None:
        self.memory = memory or PhysicalMemory(SIZE)
        self.counter = WorkCounter()
        self.engine = Engine(self.memory, self.counter)
        self.engine.on_trap = self._on_trap
        self.engine.second_level = self.translate
        self.second_level_calls: list[tuple[int, int]] = []
        self.mapping: dict[int, tuple[int, bool, bool]] = {}        # gpa page -> (spa page, writable, executable)
        self.large = False
        self.traps: list[tuple[Trap, int, int, bytes]] = []
        self.answer: Callable[[Trap, int], bool] = lambda trap, detail: False
        self._tables()

    def translate(self, gpa: int, access: int) -> Translation | None:
        self.second_level_calls.append((gpa, access))
        if gpa >> 12 in self.mapping:
            spa, writable, executable = self.mapping[gpa >> 12]
            if spa < 0 or (access & 2 and not writable) or (access & 4 and not executable):
                return None
            return spa << 12, True, writable, executable, False
        return (gpa & ~0xFFF, True, True, True, self.large) if gpa < SIZE else None

    def _on_trap(self, trap: Trap, detail: int) -> bool:
        assert self.engine.current is not None
        self.traps.append((trap, detail, self.engine.current.rip, self.engine.code_bytes()))
        return self.answer(trap, detail)

    def _tables(self) -> None:
        """Identity tables of 4 levels and of 32-bit paging, pages of 4 KiB, everybody may do everything."""
        put = self.memory.write_u64
        put(PML4, PDPT | 7), put(PDPT, DIRECTORY | 7), put(DIRECTORY, TABLE | 7), put(DIRECTORY + 8, 0x200000 | 0xE7)
        for n in range(512):
            put(TABLE + 8 * n, n << 12 | 0x67)
        self.memory.write_u32(LEGACY, LEGACY_TABLE | 7)
        for n in range(1024):
            self.memory.write_u32(LEGACY_TABLE + 4 * n, n << 12 | 0x67)
        entries = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF, 0x00008B0080000067,
                   0x00AFFB000000FFFF,
                   0x00CFF3000000FFFF)
        for n, entry in enumerate(entries):
            put(GDT + 8 * n, entry)

    # --- states ------------------------------------------------------------------------------------------

    def state(self, bits: int = 64, user: bool = False, rip: int = CODE) -> ProcessorState:
        """A new state at *rip*: real mode, flat protected mode without paging, or long mode."""
        state = self.engine.new_state()
        init_registers(state)
        state.rsp = STACK
        if bits == 16:
            state.cs = Segment(rip >> 4, rip, 0xFFFF, 0x9B)
            state.ss = state.ds = state.es = real_mode_segment(0)
            state.rip, state.rsp = 0, 0x9000
            return state
        state.gdtr, state.tr = Table(GDT, 0x3F), TASK
        state.cr0 = 0x31
        if bits == 64:
            state.efer, state.cr4, state.cr3, state.cr0 = 0xD00, 0x620, PML4, 0x80010033
        state.cs = (USER_CODE_64 if user else FLAT_CODE_64) if bits == 64 else USER_CODE_32 if user else FLAT_CODE_32
        for name in DATA_SEGMENTS:
            setattr(state, name, USER_DATA if user else FLAT_DATA)
        state.rip = rip
        return state

    def put(self, source: str | bytes, bits: int = 64, at: int = CODE) -> int:
        """Store code at *at*; its length."""
        code = source if isinstance(source, bytes) else b"".join(
            part for _, part in assemble(source, bits, 0 if bits == 16 else at))
        self.memory.write(at, code)
        return len(code)

    def run(self, state: ProcessorState, ticks: int = 100_000, **options: Any) -> bool:
        """Run for at most *ticks*."""
        return self.engine.run(state, self.counter.done + ticks, **options)

    def run_code(self, source: str | bytes, bits: int = 64, user: bool = False, **registers: int) -> ProcessorState:
        """Put the code, run it to its first trap that `answer` does not go on from, give the state."""
        self.put(source, bits)
        state = self.state(bits, user)
        for name, value in registers.items():
            setattr(state, name, value)
        self.run(state)
        return state

    def close(self) -> None:
        self.engine.close()
        self.memory.close()
