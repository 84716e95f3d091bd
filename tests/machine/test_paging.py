"""The walk of the guest's page tables: each rule by name, then thousands of tables against the engine's own walk."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_32, UC_MODE_64, Uc, UcError
from unicorn import x86_const as ux
from unicorn.unicorn_py3.unicorn import uclib

from hv.machine import context
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import (
    NonCanonical,
    PageFault,
    PagingFormat,
    PagingMode,
    Walk,
    is_canonical,
    load_pdptes,
    translate,
    walk,
)
from tests.machine.fakes import FakeMemory, FakeState

READ, WRITE, EXECUTE = Access.READ, Access.WRITE, Access.EXECUTE
PG, WP, PE = 1 << 31, 1 << 16, 1
PSE, PAE, SMEP, SMAP = 1 << 4, 1 << 5, 1 << 20, 1 << 21
LMA, NXE = 0x500, 1 << 11
AC = 1 << 18
P, W, U, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
TABLE = P | W | U
REGISTERS = {
    PagingFormat.LONG: {"cr0": PG | PE, "cr4": PAE, "efer": LMA},
    PagingFormat.PAE: {"cr0": PG | PE, "cr4": PAE, "efer": 0},
    PagingFormat.LEGACY: {"cr0": PG | PE, "cr4": PSE, "efer": 0},
}
ROOT, DIRECTORIES, DIRECTORY, LAST, PAGE = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000


def a_state(format: PagingFormat = PagingFormat.LONG, **extra: int) -> FakeState:
    """Paging on in *format*; *extra* names registers whose bits are added."""
    registers = dict(REGISTERS[format], cr3=ROOT, rflags=2)
    for name, value in extra.items():
        registers[name] |= value
    return FakeState(**registers)


def tables(pml4e: int = TABLE, pdpte: int = TABLE, pde: int = TABLE, pte: int = TABLE) -> FakeMemory:
    """Four levels with one entry each, at index 0, down to the page at 0x5000."""
    memory = FakeMemory(0x10000)
    for gpa, raw, target in ((ROOT, pml4e, DIRECTORIES), (DIRECTORIES, pdpte, DIRECTORY), (DIRECTORY, pde, LAST),
                             (LAST, pte, PAGE)):
        memory.store(gpa, raw if raw & PS else raw | target, 8)
    return memory


def look(state: FakeState, memory: FakeMemory, access: Access = READ, cpl: int = 0, implicit: bool = False) -> Walk:
    return walk(PagingMode.of(state), 0x123, access, cpl, memory.load, implicit=implicit)


# --- Modes ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("registers", "format"), [
    ({}, PagingFormat.NONE), ({"cr4": PAE, "efer": LMA}, PagingFormat.NONE), ({"cr0": PG}, PagingFormat.LEGACY),
    ({"cr0": PG, "cr4": PAE}, PagingFormat.PAE), ({"cr0": PG, "cr4": PAE, "efer": LMA}, PagingFormat.LONG),
], ids=["off", "off-although-pae", "32-bit", "pae", "4-level"])
def test_three_registers_choose_the_format(registers, format):
    """SDM "Paging Modes and Control Bits"."""
    assert PagingMode.of(FakeState(**registers)).format is format


def test_without_paging_a_linear_address_is_physical_and_32_bits_wide():
    found = walk(PagingMode.of(FakeState()), 0x1_0000_1234, WRITE, 3, FakeMemory().load)
    assert (found.gpa, found.levels) == (0x1234, [])


@pytest.mark.parametrize(("gva", "canonical"), [
    (0, True), (0x7FFF_FFFF_FFFF, True), (0x8000_0000_0000, False), (0xFFFF_7FFF_FFFF_FFFF, False),
    (0xFFFF_8000_0000_0000, True), ((1 << 64) - 1, True),
])
def test_bits_63_to_47_of_a_canonical_address_are_equal(gva, canonical):
    assert is_canonical(gva) == canonical
    if not canonical:
        with pytest.raises(NonCanonical) as refused:
            walk(PagingMode.of(a_state()), gva, READ, 0, FakeMemory().load)
        assert (refused.value.vector, refused.value.error_code) == (13, 0)


# --- Rules ---------------------------------------------------------------------------------------

def test_a_walk_keeps_every_level_it_used():
    found = look(a_state(), tables())
    assert [(level.name, level.gpa) for level in found.levels] == [
        ("PML4E", ROOT), ("PDPTE", DIRECTORIES), ("PDE", DIRECTORY), ("PTE", LAST)]
    assert (found.gpa, found.page_size) == (0x5123, 4096)
    assert (found.writable, found.user, found.executable) == (True, True, True)
    assert found.inspect()["levels"][3] == {"name": "PTE", "gpa": LAST, "raw": TABLE | PAGE}


# name, entries, registers, access, cpl, error code
REFUSED = [
    ("absent-pml4e", {"pml4e": 0}, {}, READ, 0, 0),
    ("absent-pte-write", {"pte": 0}, {}, WRITE, 0, 2),
    ("absent-pte-user", {"pte": 0}, {}, READ, 3, 4),
    ("absent-wins-over-reserved", {"pte": NX}, {}, READ, 0, 0),
    ("cpl-1-is-supervisor", {"pte": 0}, {}, READ, 1, 0),
    ("user-reads-supervisor-page", {"pte": P | W}, {}, READ, 3, 5),
    ("user-bit-counts-at-every-level", {"pdpte": P | W}, {}, READ, 3, 5),
    ("user-writes-read-only-page", {"pte": P | U}, {}, WRITE, 3, 7),
    ("write-bit-counts-at-every-level", {"pml4e": P | U}, {}, WRITE, 3, 7),
    ("supervisor-write-with-wp", {"pte": P | U}, {"cr0": WP}, WRITE, 0, 3),
    ("read-modify-write-is-a-write", {"pte": P | U}, {"cr0": WP}, READ | WRITE, 0, 3),
    ("fetch-of-no-execute-page", {"pte": TABLE | NX}, {"efer": NXE}, EXECUTE, 0, 0x11),
    ("no-execute-counts-at-every-level", {"pml4e": TABLE | NX}, {"efer": NXE}, EXECUTE, 3, 0x15),
    ("nx-is-reserved-without-nxe", {"pte": TABLE | NX}, {}, READ, 0, 9),
    ("fetch-bit-needs-nxe-or-smep", {"pte": 0}, {}, EXECUTE, 0, 0),
    ("fetch-bit-with-smep", {"pte": 0}, {"cr4": SMEP}, EXECUTE, 0, 0x10),
    ("smep", {}, {"cr4": SMEP}, EXECUTE, 0, 0x11),
    ("smap-read", {}, {"cr4": SMAP}, READ, 0, 1),
    ("smap-write", {}, {"cr4": SMAP}, WRITE, 0, 3),
    ("bit-40-is-reserved-in-a-pte", {"pte": TABLE | 1 << 40}, {}, READ, 0, 9),
    ("bit-51-is-reserved-in-a-pml4e", {"pml4e": TABLE | 1 << 51}, {}, WRITE, 3, 0xF),
    ("large-pml4e", {"pml4e": TABLE | PS}, {}, READ, 0, 9),
    ("unaligned-1-gib-page", {"pdpte": TABLE | PS | 1 << 29}, {}, READ, 0, 9),
    ("unaligned-2-mib-page", {"pde": TABLE | PS | 1 << 13}, {}, READ, 0, 9),
]


@pytest.mark.parametrize(("entries", "registers", "access", "cpl", "code"), [row[1:] for row in REFUSED],
                         ids=[row[0] for row in REFUSED])
def test_a_walk_is_refused_with_the_error_code_of_its_rule(entries, registers, access, cpl, code):
    """SDM "Determination of Access Rights" and "Page-Fault Exceptions"."""
    with pytest.raises(PageFault) as refused:
        look(a_state(**registers), tables(**entries), access, cpl)
    fault = refused.value
    assert (fault.vector, fault.error_code, fault.address) == (14, code, 0x123)
    assert fault.reason
    assert fault.levels


ALLOWED = [
    ("supervisor-write-without-wp", {"pte": P | U}, {}, WRITE, 0),
    ("supervisor-reads-user-page", {}, {}, READ, 0),
    ("supervisor-fetches-user-page-without-smep", {}, {"cr4": SMAP}, EXECUTE, 0),
    ("ac-lifts-smap", {}, {"cr4": SMAP, "rflags": AC}, WRITE, 0),
    ("smap-is-nothing-to-the-user", {}, {"cr4": SMAP | SMEP}, EXECUTE, 3),
    ("no-execute-page-may-be-read", {"pte": TABLE | NX}, {"efer": NXE}, READ, 3),
    ("bits-62-to-52-are-ignored", {"pte": TABLE | 0x7FF << 52}, {}, READ, 0),
    ("bit-39-is-an-address-bit", {"pdpte": TABLE | PS | 1 << 39}, {}, READ, 0),
    ("bit-7-of-a-pte-is-pat", {"pte": TABLE | PAGE | PS}, {}, READ, 0),
    ("bit-12-of-a-large-page-is-pat", {"pde": TABLE | PS | 1 << 12}, {}, READ, 0),
]


@pytest.mark.parametrize(("entries", "registers", "access", "cpl"), [row[1:] for row in ALLOWED],
                         ids=[row[0] for row in ALLOWED])
def test_a_walk_is_allowed(entries, registers, access, cpl):
    look(a_state(**registers), tables(**entries), access, cpl)


def test_smap_holds_for_implicit_accesses_even_with_ac():
    """SDM "Access Rights": RFLAGS.AC concerns explicit supervisor-mode accesses only."""
    with pytest.raises(PageFault):
        look(a_state(cr4=SMAP, rflags=AC), tables(), implicit=True)


def test_physical_address_width_and_1_gib_pages_are_parameters():
    state, memory = a_state(), tables(pte=TABLE | 1 << 40)
    assert walk(PagingMode.of(state, physical_bits=46), 0x123, READ, 0, memory.load).gpa == 1 << 40 | 0x5123
    with pytest.raises(PageFault):
        walk(PagingMode.of(state, gigabyte_pages=False), 0x123, READ, 0, tables(pdpte=TABLE | PS).load)


@pytest.mark.parametrize(("entries", "gva", "gpa", "size"), [
    ({"pdpte": TABLE | PS | 0x40000000}, 0x12345678, 0x52345678, 1 << 30),
    ({"pde": TABLE | PS | 0x600000 | 1 << 12}, 0x12345, 0x612345, 2 << 20),
], ids=["1-gib", "2-mib-with-pat"])
def test_a_large_page_keeps_more_bits_of_the_linear_address(entries, gva, gpa, size):
    memory = tables(**entries)
    memory.store(DIRECTORIES + 8 * (gva >> 30), memory.load(DIRECTORIES, 8), 8)
    found = walk(PagingMode.of(a_state()), gva, READ, 0, memory.load)
    assert (found.gpa, found.page_size) == (gpa, size)


def test_pse_36_puts_address_bits_39_to_32_into_bits_20_to_13():
    memory, mode = FakeMemory(), PagingMode.of(a_state(PagingFormat.LEGACY))
    memory.store(ROOT + 4, TABLE | PS | 0x00C00000 | 0xAB << 13, 4)
    assert walk(mode, 0x400123, READ, 0, memory.load).gpa == 0xAB_00C0_0123
    memory.store(ROOT + 4, TABLE | PS | 1 << 21, 4)
    with pytest.raises(PageFault) as refused:
        walk(mode, 0x400123, READ, 0, memory.load)
    assert refused.value.error_code == 9


def test_without_pse_bit_7_of_a_pde_is_ignored():
    memory, state = FakeMemory(), a_state(PagingFormat.LEGACY)
    state.cr4 = 0
    memory.store(ROOT, TABLE | PS | LAST, 4)
    memory.store(LAST, TABLE | PAGE, 4)
    assert walk(PagingMode.of(state), 0x123, READ, 0, memory.load).gpa == 0x5123


def test_a_pae_pdpte_has_no_rights_but_reserved_bits():
    """SDM "PAE Paging": PDPTEs have no U/S, R/W or XD; MOV to CR3 refuses their reserved bits."""
    memory, state = FakeMemory(), a_state(PagingFormat.PAE)
    memory.store(ROOT, P | DIRECTORY, 8)
    memory.store(DIRECTORY, TABLE | PS, 8)
    assert walk(PagingMode.of(state), 0x123, WRITE, 3, memory.load).user
    load_pdptes(PagingMode.of(state), memory.load)
    memory.store(ROOT + 24, P | W, 8)
    with pytest.raises(GuestFault) as refused:
        load_pdptes(PagingMode.of(state), memory.load)
    assert (refused.value.vector, refused.value.error_code) == (13, 0)


@pytest.mark.parametrize(("access", "leaf"), [(READ, A), (EXECUTE, A), (WRITE, A | D)], ids=["read", "fetch", "write"])
def test_a_walk_that_succeeds_marks_its_entries(access, leaf):
    """SDM "Accessed and Dirty Flags": accessed in every entry, dirty in the one that maps the page."""
    memory = tables()
    walk(PagingMode.of(a_state()), 0, access, 3, memory.load, memory.store)
    marks = [memory.load(gpa, 8) & (A | D) for gpa in (ROOT, DIRECTORIES, DIRECTORY, LAST)]
    assert marks == [A, A, A, leaf]


def test_a_refused_second_level_access_says_that_it_was_for_the_walk():
    memory = tables()
    memory.refused.add(LAST >> 12)
    with pytest.raises(NestedFault) as refused:
        look(a_state(), memory)
    assert (refused.value.gpa, refused.value.gva, refused.value.during_walk) == (LAST, 0x123, True)


# --- Against the engine --------------------------------------------------------------------------

RAM = 512 << 10
KERNEL_CODE, USER_CODE = 0xD000, 0xE000         # mapped one to one in every format
FIXED_DIRECTORIES, FIXED_DIRECTORY, FIXED_LAST = 0x6000, 0x7000, 0x8000
INSTRUCTIONS = {READ: b"\x8b\x01", WRITE: b"\x89\x01"}        # mov eax, [rcx] and back
SHIFTS = {PagingFormat.LONG: (39, 30, 21, 12), PagingFormat.PAE: (30, 21, 12), PagingFormat.LEGACY: (22, 12)}
STRUCTURES = (ROOT, DIRECTORIES, DIRECTORY, LAST)
DATA = random.Random(1).randbytes(RAM)


@dataclass(frozen=True)
class Trial:
    """Random flags for the entries of one walk, and one access through them."""

    format: PagingFormat
    entries: tuple[int, ...]        # raw, root first; the address of the next structure is added
    gva: int
    access: Access
    cpl: int
    state: FakeState

    def ram(self) -> bytearray:
        """Random data, the tables of this trial, and the fixed ones which map the code."""
        ram, width = bytearray(DATA), 4 if self.format is PagingFormat.LEGACY else 8
        ram[: USER_CODE + 0x1000] = bytes(USER_CODE + 0x1000)
        shifts, structures = SHIFTS[self.format], STRUCTURES[-len(self.entries) :]
        structures = (ROOT, *structures[1:])
        fixed = (ROOT, *(FIXED_DIRECTORIES, FIXED_DIRECTORY, FIXED_LAST)[-len(shifts) + 1 :])

        def put(gpa: int, raw: int) -> None:
            ram[gpa : gpa + width] = raw.to_bytes(width, "little")

        for structure, following in pairwise(fixed):
            top_of_pae = self.format is PagingFormat.PAE and structure == ROOT
            put(structure, following | (P if top_of_pae else TABLE | A | D))
        put(FIXED_LAST + width * (KERNEL_CODE >> 12), KERNEL_CODE | P | A | D)
        put(FIXED_LAST + width * (USER_CODE >> 12), USER_CODE | TABLE | A | D)
        nexts = (*structures[1:], 0)
        for raw, shift, structure, following in zip(self.entries, shifts, structures, nexts, strict=True):
            index = self.gva >> shift & (3 if self.format is PagingFormat.PAE and shift == 30 else 4096 // width - 1)
            put(structure + width * index, raw if raw & PS else raw | following)
        for code in (KERNEL_CODE, USER_CODE):
            ram[code : code + 2] = INSTRUCTIONS.get(self.access, b"\x90\x90")
        return ram


class Oracle:
    """A plain engine with its own paging switched on."""

    def __init__(self, mode: int) -> None:
        self.uc = Uc(UC_ARCH_X86, mode)
        self.uc.ctl_set_cpu_model(ux.UC_CPU_X86_EPYC)
        self.uc.ctl_set_tcg_buffer_size(4 << 20)
        self.uc.mem_map(0, RAM)
        self.uc.hook_add(UC_HOOK_INTR, self._on_exception)
        self.start, self.current = context.allocate(self.uc), context.allocate(self.uc)
        uclib.uc_context_save(self.uc._uch, self.start)
        self.fault: tuple[int, int] | None = None

    def _on_exception(self, uc: Uc, vector: int, _: object) -> None:
        uclib.uc_context_save(uc._uch, self.current)
        view = context.view(self.current)
        self.fault = vector, int.from_bytes(view[context.ERROR_CODE : context.ERROR_CODE + 4], "little")
        uc.emu_stop()

    def run(self, trial: Trial, ram: bytes) -> tuple[int, int] | bytes:
        """(vector, error code) of the fault, or RAM afterwards."""
        uc, state = self.uc, trial.state
        uclib.uc_context_restore(uc._uch, self.start)
        uc.mem_write(0, ram)
        uc.reg_write(ux.UC_X86_REG_CR4, state.cr4)
        uc.msr_write(0xC0000080, state.efer)
        uc.reg_write(ux.UC_X86_REG_CR3, ROOT)
        uc.reg_write(ux.UC_X86_REG_CR0, state.cr0)
        uc.reg_write(ux.UC_X86_REG_EFLAGS, state.rflags)
        uc.reg_write(ux.UC_X86_REG_RCX if trial.format is PagingFormat.LONG else ux.UC_X86_REG_ECX, trial.gva)
        self._set_cpl(trial.cpl)
        begin = trial.gva if trial.access is EXECUTE else USER_CODE if trial.cpl == 3 else KERNEL_CODE
        self.fault = None
        with contextlib.suppress(UcError):
            uc.emu_start(begin, begin + 2, count=1)
        return self.fault or bytes(uc.mem_read(0, RAM))

    def _set_cpl(self, cpl: int) -> None:
        uclib.uc_context_save(self.uc._uch, self.current)
        view = context.view(self.current)
        view[context.HFLAGS] = view[context.HFLAGS] & ~3 | cpl
        uclib.uc_context_restore(self.uc._uch, self.current)


@pytest.fixture(scope="module")
def oracles() -> dict[PagingFormat, Oracle]:
    narrow = Oracle(UC_MODE_32)
    return {PagingFormat.LONG: Oracle(UC_MODE_64), PagingFormat.PAE: narrow, PagingFormat.LEGACY: narrow}


@st.composite
def entries(draw: st.DrawFn, format: PagingFormat, shift: int) -> int:
    """The flags of one entry: mostly usable, each refusal now and then."""
    often, seldom = st.integers(0, 19).map(lambda n: n != 7), st.integers(0, 19).map(lambda n: n == 7)
    if format is PagingFormat.PAE and shift == 30:
        return P if draw(often) else 0
    raw = P if draw(often) else 0
    raw |= draw(st.sampled_from((TABLE, TABLE, TABLE, TABLE, U, W, 0))) & (U | W)
    raw |= draw(st.sampled_from((0, 0, A, A | D, 0x18, 0x100)))
    if 12 < shift < 39 and draw(st.integers(0, 3)) == 2:
        raw |= PS | (1 << 12 if draw(seldom) else 0)
        if draw(seldom):
            raw |= 1 << (21 if format is PagingFormat.LEGACY else 13)
    if format is not PagingFormat.LEGACY:
        raw |= NX if draw(st.integers(0, 9)) == 7 else 0
        raw |= 1 << draw(st.sampled_from((48, 51))) if draw(seldom) else 0
    if shift == 12:
        raw |= draw(st.integers(0x10, (RAM >> 12) - 1)) << 12
    return raw


@st.composite
def trials(draw: st.DrawFn) -> Trial:
    format = draw(st.sampled_from(list(SHIFTS)))
    flags = tuple(draw(entries(format, shift)) for shift in SHIFTS[format])
    offset = draw(st.integers(16, (RAM >> 12) - 2)) << 12 | draw(st.integers(0, 0xFF0))     # inside RAM under any page
    if format is PagingFormat.LEGACY:
        gva = draw(st.integers(1, 1023)) << 22 | offset
    elif format is PagingFormat.PAE:
        gva = draw(st.integers(1, 3)) << 30 | offset
    else:
        top = draw(st.integers(1, 511))
        gva = (0xFFFF << 48 if top > 255 else 0) | top << 39 | offset
    cr0 = PG | PE | (WP if draw(st.booleans()) else 0)
    cr4 = REGISTERS[format]["cr4"] | draw(st.sampled_from((0, SMEP, SMAP, SMEP | SMAP)))
    nxe = NXE if format is not PagingFormat.LEGACY and draw(st.integers(0, 3)) else 0
    ac = AC if draw(st.booleans()) else 0
    state = FakeState(cr0=cr0, cr3=ROOT, cr4=cr4, efer=REGISTERS[format]["efer"] | nxe, rflags=2 | ac)
    access, cpl = draw(st.sampled_from((READ, WRITE, EXECUTE))), draw(st.sampled_from((0, 3)))
    return Trial(format, flags, gva, access, cpl, state)


def outcome(mode: PagingMode, trial: Trial, memory: FakeMemory) -> Walk | PageFault:
    """What the walk finds; the short way must find the same, before entries are marked and after."""
    def short_way() -> int | tuple[int | None, int | None]:
        try:
            return translate(mode, trial.gva, trial.access.value, trial.cpl, memory.load)
        except PageFault as fault:
            return fault.error_code, fault.address

    before, found = short_way(), None
    try:
        found = walk(mode, trial.gva, trial.access, trial.cpl, memory.load, memory.store)
    except PageFault as fault:
        found = fault
    expected = (found.error_code, found.address) if isinstance(found, PageFault) else found.gpa
    assert before == short_way() == expected
    return found


@settings(max_examples=700)
@given(trial=trials())
def test_random_tables_translate_as_the_engine_translates_them(oracles, trial):
    """Same faults, same error codes, same page, same accessed and dirty flags."""
    ram = trial.ram()
    memory, before = FakeMemory(0), bytes(ram)
    memory.data = ram
    mode = PagingMode.of(trial.state)
    oracle, found = oracles[trial.format], outcome(mode, trial, memory)
    if isinstance(found, PageFault):
        assert oracle.run(trial, before) == (14, found.error_code), found.reason
        return
    target = slice(found.gpa, found.gpa + 4)
    if trial.access is EXECUTE:
        ram[target] = b"\x90" * 4
        before = before[: found.gpa] + b"\x90" * 4 + before[found.gpa + 4 :]
    if trial.access is WRITE:
        ram[target] = bytes(4)      # EAX
    assert oracle.run(trial, before) == bytes(ram)
    if trial.access is READ:
        assert oracle.uc.reg_read(ux.UC_X86_REG_EAX) == int.from_bytes(ram[target], "little")
