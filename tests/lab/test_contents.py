"""Memory, registers and page tables at the end of a run: as the guest sees them, by bits and ranges, and in secret."""

import msgspec
import pytest

from hv.lab.checks import Mark
from hv.lab.errors import LabError
from hv.lab.report import report
from tests.lab.exercises import FakeRun, a_check
from tests.lab.folders import a_lab, verdict_on

NUMBERS = {
    "bits": ({"mask": 0xF0, "value": 0x40}, 0x1234_5647, 0x57), "range": ({"at_least": 5, "at_most": 9}, 9, 10),
    "least": ({"at_least": 5}, 5, 4), "most": ({"at_most": 5}, 5, 6), "one-of": ({"in": [1, 4]}, 4, 2),
    "bits-in-range": ({"mask": 0xFF, "at_most": 3}, 0x102, 0x104), "bits-one-of": ({"mask": 3, "in": [1, 2]}, 5, 7),
    "label": ("@here", 0x20, 0x21), "number": (7, 7, 8),
}


@pytest.mark.parametrize(("wanted", "right", "wrong"), NUMBERS.values(), ids=NUMBERS)
def test_a_register_or_a_number_in_memory_may_be_one_of_several(wanted, right, wrong):
    for value, passes in ((right, True), (wrong, False)):
        run = FakeRun(registers={"rax": value}, memory=value.to_bytes(8, "little"), symbols={"here": 0x20})
        assert a_check(kind="register", values={"rax": wanted}).judge(run).passed is passes
        assert a_check(kind="memory", gpa=0, value=wanted).judge(run).passed is passes


def test_bits_are_told_with_what_was_found():
    run = FakeRun(registers={"rflags": 0x46, "rax": 1})
    check = a_check(kind="register", values={"rax": 1, "rflags": {"mask": 0x200, "value": 0x200}})
    finding = check.judge(run)
    assert finding.message == "expected rax=1, rflags=0x200 in bits 0x200, found rax=1 rflags=0x46"
    assert finding.lines == [(Mark.GOOD, "rax=1"), (Mark.BAD, "rflags=0x46"),
                             (Mark.MISSING, "rflags=0x200 in bits 0x200")]


@pytest.mark.parametrize("wanted", [{"mask": 1}, {"mask": 1, "value": 2}, {"in": []}, {"value": 1, "at_most": 2},
                                    {"at_least": 2, "at_most": 1}, "here", {"mask": 1, "in": [1, 4]}], ids=str)
def test_what_no_number_can_be_is_refused(wanted):
    with pytest.raises(msgspec.ValidationError):
        a_check(kind="register", values={"rax": wanted})


@pytest.mark.parametrize("wanted", [256, -1, {"at_most": 256}, {"in": [1, 256]}], ids=str)
def test_what_is_larger_than_its_bytes_is_refused(wanted):
    with pytest.raises(msgspec.ValidationError):
        a_check(kind="memory", gpa=0, size=1, value=wanted)


def test_memory_behind_its_end_is_no_number():
    """Two bytes of a number of four are not that number, even if the rest would be zeros."""
    run = FakeRun(memory=b"\5\0")
    assert not a_check(kind="memory", gpa=0, size=4, value={"at_most": 9}).judge(run).passed


# --- as the guest sees it ---------------------------------------------------------------------------

OVERLAY = """
start:
    mov ecx, 0x40000000
    mov eax, 1
    mov edx, 0
    wrmsr
    mov dword ptr [0x1FF000], 0x11111111
    mov ecx, 0x40000001
    mov eax, 0x1FF001
    mov edx, 0
    wrmsr
    mov ecx, 0x40000083
    mov eax, 0x7FFFF001
    wrmsr
    hlt
"""


def memory_at(gpa, data):
    return f'[[checks]]\nname = "{gpa}"\nkind = "memory"\ngpa = {gpa}\n{data}\n'


def test_a_page_of_the_hypervisor_over_the_guests_own_is_what_memory_holds(tmp_path):
    """TLFS "Establishing the Hypercall Interface": an overlay; and the SIMP may lie where the VM has no memory."""
    checks = memory_at("0x1FF000", 'bytes = "0f 01 c1"') + memory_at("0x7FFFF000", "value = 0\nsize = 4")
    verdict = verdict_on(a_lab(tmp_path, checks), OVERLAY)
    assert verdict.passed, report(verdict)


def test_without_the_overlay_there_is_the_guests_own_page(tmp_path):
    checks = memory_at("0x1FF000", "value = 0x11111111\nsize = 4") + memory_at("0x7FFFF000", "value = 0\nsize = 4")
    source = OVERLAY.replace("0x1FF001", "0x1FF000").replace("0x7FFFF001", "0x7FFFF000")
    verdict = verdict_on(a_lab(tmp_path, checks), source)
    assert [finding.passed for finding in verdict.findings] == [True, False], report(verdict)


PAGES = """
start:
    lea rax, [rip + table]
    or rax, 7
    mov rbx, cr3
    and rbx, -4096
    mov rcx, [rbx]
    and rcx, -4096
    mov [rcx + 8 * 100], rax            # the PDPTE of 100 GiB
    lea rax, [rip + leaves]
    or rax, 5                           # not writable
    mov [rip + table], rax
    mov qword ptr [rip + leaves + 8], 0x1234007
    mov rax, cr3
    mov cr3, rax
    hlt
.org 0x100000
table: .skip 4096
leaves: .skip 4096
"""
AT = 100 << 30
MAPS = {
    "where": (f"gva = {AT + 0x1080}\ngpa = 0x1234080", True),
    "rights": (f"gva = {AT + 0x1000}\ngpa = 0x1234000\nwritable = false\nuser = false\npage_size = 4096", True),
    "elsewhere": (f"gva = {AT + 0x1000}\ngpa = 0x1235000", False),
    "writable": (f"gva = {AT + 0x1000}\nwritable = true", False), "no-page": (f"gva = {AT}", False),
    "nothing": (f"gva = {AT}\nmapped = false", True), "something": (f"gva = {AT + 0x1000}\nmapped = false", False),
    "not-canonical": ("gva = 0x800000000000\nmapped = false", True),
    "label": ('gva = "@leaves"\ngpa = "@leaves"', True), "no-label": ('gva = "@leaf"', False),
    "large": ('gva = "@table"\npage_size = 4096', False),
}


@pytest.mark.parametrize(("fields", "passes"), MAPS.values(), ids=MAPS)
def test_the_guests_own_tables_are_walked(tmp_path, fields, passes):
    verdict = verdict_on(a_lab(tmp_path, f'[[checks]]\nname = "it"\nkind = "maps"\n{fields}\n'), PAGES)
    assert verdict.passed is passes, report(verdict)


def test_a_walk_that_ends_early_shows_how_far_it_came(tmp_path):
    checks = f'[[checks]]\nname = "it"\nkind = "maps"\ngva = {AT}\ngpa = 0x1234000\nwritable = false\n'
    finding = verdict_on(a_lab(tmp_path, checks), PAGES).findings[0]
    assert finding.found == f"gva {AT:#x} -> nothing: PTE is not present"
    assert [mark for mark, _ in finding.lines] == ["", "", "", "", "BAD", "MISSING"]
    assert finding.lines[3][1].startswith("PTE    at gpa 0x101000")
    assert finding.lines[5][1] == f"gva {AT:#x} -> gpa 0x1234000, read-only"


def test_without_paging_an_address_is_its_own(tmp_path):
    checks = '[[checks]]\nname = "it"\nkind = "maps"\ngva = 0x5000\ngpa = 0x5001\n'
    finding = verdict_on(a_lab(tmp_path, checks), ".bits 32\nstart:\n hlt\n").findings[0]
    assert finding.found.endswith("paging is off")


def test_tables_where_no_memory_is_are_told(tmp_path):
    source = "start:\n mov rax, 0x1234\n mov [0x200000], rax\n hlt\n"
    checks = '[[checks]]\nname = "it"\nkind = "maps"\ngva = 0x5000\nmapped = false\n'
    finding = verdict_on(a_lab(tmp_path, checks), source.replace("mov [0x200000], rax", "mov cr3, rax")
                         .replace("0x1234", "0x70000000")).findings[0]
    assert "gpa 0x70000000, where there is no memory" in finding.found


@pytest.mark.parametrize("fields", [{"gva": "leaf"}, {"gva": 1, "mapped": False, "gpa": 1}, {"gva": 1, "page_size": 5},
                                    {"gpa": 1}], ids=str)
def test_a_translation_that_cannot_be_is_refused(fields):
    with pytest.raises(msgspec.ValidationError):
        a_check(kind="maps", **fields)


# --- secret -----------------------------------------------------------------------------------------

SECRETS = {
    "memory": ({"kind": "memory", "symbol": "here", "text": "wanted"}, "expected what the task asks for at `here`"),
    "number": ({"kind": "memory", "gpa": 8, "value": 0x77616E746564}, "expected what the task asks for at 0x8"),
    "register": ({"kind": "register", "values": {"rax": 0x77616E746564}}, "expected what the task asks for in rax"),
    "serial": ({"kind": "serial", "text": "wanted"}, "expected what the task asks for on the serial port"),
}


@pytest.mark.parametrize(("fields", "says"), SECRETS.values(), ids=SECRETS)
def test_of_a_secret_check_only_where_and_what_was_found_is_told(fields, says):
    run = FakeRun(symbols={"here": 0}, memory=b"FOUND   FOUND   ", registers={"rax": 0x464F554E44}, printed="FOUND")
    finding = a_check(secret=True, **fields).judge(run)
    told = f"{finding}".lower()
    assert finding.message.startswith(f"{says}, found ")
    assert "wanted" not in told
    assert "77616e74" not in told.replace(" ", "")


def test_a_secret_translation_does_not_tell_where_to(tmp_path):
    checks = f'[[checks]]\nname = "it"\nkind = "maps"\ngva = {AT + 0x1000}\ngpa = 0x1235000\nsecret = true\n'
    told = report(verdict_on(a_lab(tmp_path, checks), PAGES))
    assert "0x1234000" in told
    assert "0x1235000" not in told
    assert f"of gva {AT + 0x1000:#x}" in told


def test_parts_of_a_secret_count_as_ever():
    run = FakeRun(symbols={"here": 0}, memory=b"wantFAIL")
    check = a_check(kind="memory", symbol="here", text="wantedit", points=4, partial=True, secret=True)
    assert check.earned(check.judge(run)) == 2


def test_only_contents_can_be_secret(tmp_path):
    with pytest.raises(LabError, match="cannot be secret"):
        a_lab(tmp_path, '[[checks]]\nname = "it"\nkind = "ended"\nhow = "halt"\nsecret = true\n')
