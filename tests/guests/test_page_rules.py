"""Pages as programs test them: what is refused with which error code, and when a changed table counts; SDM "Paging".

All rows run in one guest. Its own page table maps linear addresses from 1 GiB on.
"""

import pytest

from tests.guests.attempts import attempt

PF = 14
PRESENT, WRITE, USER, FETCH, RESERVED = 1, 2, 4, 16, 8          # of the error code
DIRECTORY, TABLE, FRAME, RESULTS = 0x240000, 0x241000, 0x230000, 0x220000
NX = 1 << 63
NEXT_TABLE = "mov rbx, cr3; mov rcx, [rbx]; and rcx, -4096"


def at(n: int) -> str:
    return f"{0x40000000 + n * 4096:#x}"


def entry(n: int, value: int) -> str:
    return f"mov rax, {value:#x}; mov [{TABLE + 8 * n:#x}], rax"


def keep(n: int, place: int) -> str:
    return f"mov rbx, [{TABLE + 8 * n:#x}]; mov [{RESULTS + 8 * place:#x}], rbx"


SETUP = (f"{NEXT_TABLE}; mov rdx, {DIRECTORY | 3:#x}; mov [rcx + 8], rdx; mov rax, {TABLE | 3:#x}; "
         f"mov [{DIRECTORY:#x}], rax; mov cr3, rbx; mov ecx, 0xC0000080; rdmsr; or eax, 0x800; wrmsr; "
         f"mov rax, cr0; bts rax, 16; mov cr0, rax; mov byte ptr [{FRAME:#x}], 0xC3")
FOR_USERS = (f"or qword ptr [{DIRECTORY:#x}], 4; {NEXT_TABLE}; or qword ptr [rcx + 8], 4; or qword ptr [rbx], 4; "
             "mov cr3, rbx")
CALL = "mov rsi, rsp; call rax"
ROWS = {        # code, the error code of its #PF or None, CR2
    "write-to-read-only-under-wp": (f"{entry(0, FRAME | 1)}; mov [{at(0)}], eax", PRESENT | WRITE, at(0)),
    "without-wp": (f"mov rax, cr0; btr rax, 16; mov cr0, rax; mov [{at(0)}], eax; bts rax, 16; mov cr0, rax", None, ""),
    "fetch-of-nx": (f"{entry(1, NX | FRAME | 3)}; mov eax, {at(1)}; {CALL}", PRESENT | FETCH, at(1)),
    "reserved-bit-51": (f"mov rsp, rsi; {entry(2, 1 << 51 | FRAME | 3)}; mov eax, [{at(2)}]", PRESENT | RESERVED,
                        at(2)),
    "reserved-bit-40": (f"{entry(2, 1 << 40 | FRAME | 3)}; mov eax, [{at(2)}]", PRESENT | RESERVED, at(2)),
    "write-to-nothing": (f"mov [{at(3)}], eax", WRITE, at(3)),
    "there-without-a-flush": (f"{entry(3, FRAME | 3)}; mov [{at(3)}], eax; {keep(3, 0)}", None, ""),
    "read-marks-accessed": (f"{entry(4, FRAME | 3)}; mov eax, [{at(4)}]; {keep(4, 1)}", None, ""),
    "gone-after-invlpg": (f"{entry(4, 0)}; invlpg [{at(4)}]; mov eax, [{at(4)}]", 0, at(4)),
    "gone-after-mov-cr3": (f"{entry(3, 0)}; mov rax, cr3; mov cr3, rax; mov eax, [{at(3)}]", 0, at(3)),
    "gone-after-cr4-pge": (f"{entry(5, FRAME | 3)}; mov eax, [{at(5)}]; {entry(5, 0)}; mov rax, cr4; btc rax, 7; "
                           f"mov cr4, rax; btc rax, 7; mov cr4, rax; mov eax, [{at(5)}]", 0, at(5)),
    "smep-fetch-of-a-users-page": (f"mov rax, cr4; bts rax, 20; mov cr4, rax; {entry(6, FRAME | 7)}; {FOR_USERS}; "
                                   f"mov eax, {at(6)}; {CALL}", PRESENT | FETCH, at(6)),
    "smep-data-of-a-users-page": (f"mov rsp, rsi; mov byte ptr [{FRAME:#x}], 0xC3; mov eax, [{at(6)}]; "
                                  f"mov [{at(6)} + 8], eax", None, ""),
    "without-smep": (f"mov rax, cr4; btr rax, 20; mov cr4, rax; mov eax, {at(6)}; call rax", None, ""),
    "page-of-1-gib": (f"{NEXT_TABLE}; mov edx, 0x83; mov [rcx + 16], rdx; mov cr3, rbx; mov edx, 0x80220000; "
                      f"mov ecx, [rdx]; mov [{RESULTS + 16:#x}], ecx", None, ""),
}


@pytest.fixture(scope="module")
def tried():
    return attempt([source for source, _, _ in ROWS.values()], before=SETUP)


@pytest.mark.parametrize("name", ROWS)
def test_a_page_is_refused_or_not(tried, name):
    """SDM "Page-Fault Exceptions"; P is 1 where a reserved bit is set."""
    _, code, address = ROWS[name]
    raised = tried[list(ROWS).index(name)]
    found = None if raised is None else (raised.vector, raised.error_code, raised.cr2)
    assert found == (None if code is None else (PF, code, int(address, 16)))


def test_what_was_used_is_marked(tried):
    """SDM "Accessed and Dirty Flags": by a write both, by a read one."""
    memory = tried.result.memory
    written, read, seen = (int.from_bytes(memory[place : place + 8], "little")
                           for place in range(RESULTS, RESULTS + 24, 8))
    assert (written, read, seen) == (FRAME | 0x63, FRAME | 0x23, (FRAME | 0x63) & 0xFFFF_FFFF)
