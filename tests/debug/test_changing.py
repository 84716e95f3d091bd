"""set and write: what is changed, what is refused, and that the guest goes on with it."""

import pytest

from hv.debug.data import plain_data
from tests.debug.sessions import refused


@pytest.mark.parametrize(("line", "said"), [
    ("set rax 5", "rax  0 -> 5"),
    ("set $rax=5", "rax  0 -> 5"),
    ("set r9 = start + 4", "r9  0 -> 0x10004"),
    ("set rax -1", "rax  0 -> 0xffffffffffffffff"),
    ("set zf 1", "zf  0 -> 1"),
    ("set iopl 3", "iopl  0 -> 3"),
    ("set fs.base 0x1234000", "fs.base  0 -> 0x1234000"),
    ("set idtr.limit 0xFFF", "idtr.limit  0 -> 0xfff"),
    ("set xmm3 0x112233445566778899aabbccddeeff00", "xmm3  0 -> 0x112233445566778899aabbccddeeff00"),
    ("set mxcsr 0x1fa0", "mxcsr  0x1f80 -> 0x1fa0"),
    ("set st0 0x4000c90fdaa22168c235", "st0  0 -> 0x4000c90fdaa22168c235"),
    ("set sint2.vector 0x40", "sint2.vector  0 -> 0x40"),
    ("set lstar start", "lstar  0 -> 0x10000"),
    ("set eoi 0", "eoi  (only written) -> 0"),
    ("set rip start", "rip  0x10000, as before"),
])
def test_a_register_is_set_and_what_it_was_is_said(timer, line, said):
    assert timer.do(line) == said


@pytest.mark.parametrize(("line", "rax"), [
    ("set eax 0x11", 0x11), ("set ax 0x11", 0x1122334455660011), ("set al 0x11", 0x1122334455667711),
    ("set ah 0x11", 0x1122334455661188),
])
def test_a_narrow_name_writes_as_code_does(timer, line, rax):
    """SDM "General-Purpose Registers in 64-Bit Mode": 32 bits clear the upper half, 16 and 8 do not."""
    timer.do("set rax 0x1122334455667788")
    timer.do(line)
    assert timer.vp.regs.rax == rax


@pytest.mark.parametrize(("line", "words"), [
    ("set", "text is missing; usage: set TEXT"),
    ("set rax", "`rax` sets nothing"),
    ("set rax foo", "`foo` is no register and no symbol"),
    ("set raxx 5", "`raxx` is no register that can be set; near: rax"),
    ("set cs 8", "near: cs.base, cs.limit, cs.selector, cs.attributes"),
    ("set vp_index 1", "no register that can be set"),
    ("set al 300", "0x12c does not fit al, which has 8 bits"),
    ("set zf 2", "0x2 does not fit zf, which has 1 bit"),
    ("set cr4 0x80000000", "CR4 0x80000000 has reserved bits"),
    ("set efer 2", "EFER 0x2 has reserved bits"),
    ("set lstar 1 << 60", "LSTAR 0x1000000000000000: the guest's own write of it would be exception 13"),
    ("set sint1.masked 0", "would be exception 13"),
    ("set xmm0 0x" + "1" * 33, "does not fit xmm0, which has 128 bits"),
    ("set xmm0 0x" + "1" * 80, "expected at most 64 bits"),
])
def test_what_a_register_cannot_hold_is_refused(timer, line, words):
    before = timer.do("regs")
    assert words in refused(timer, line)
    assert timer.do("regs") == before


def test_what_the_next_vm_entry_says_is_told_until_it_is_mended(timer):
    """SDM "Checks on Guest Control Registers, Debug Registers, and MSRs": IA-32e mode needs paging."""
    assert "the next VM entry fails: VM exit 33, qualification 0: guest-ia32e-mode-needs-paging" \
        in timer.do("set cr0.pg 0")
    assert "fails" in timer.do("set rbx 1")
    assert timer.do("set cr0.pg 1") == "cr0.pg  0 -> 1"


def test_the_guest_goes_on_with_what_was_set(timer):
    timer.do("write gva start bytes 48 ff c0")          # inc rax
    timer.do("set rax 0x41")
    timer.do("step")
    assert timer.vp.regs.rax == 0x42


@pytest.mark.parametrize(("line", "said"), [
    ("write gva rsp u64 1", "gva 0x90000  00 00 00 00 00 00 00 00 -> 01 00 00 00 00 00 00 00"),
    ("write gpa 0x50000 u16 1 0xfffe", "gpa 0x50000  00 00 00 00 -> 01 00 fe ff"),
    ("write gpa 0x50000 u32 -1", "gpa 0x50000  00 00 00 00 -> ff ff ff ff"),
    ("write spa 0x1000 u8 7", "spa 0x1000  00 -> 07"),
    ("write gva 0x50000 bytes 90 90f4", "gva 0x50000  00 00 00 -> 90 90 f4"),
    ('write gva 0x50000 text "a\\n#" # a comment', "gva 0x50000  00 00 00 -> 61 0a 23"),
    ("write gva 0x50fff bytes 0x1122", "gva 0x50fff  00 00 -> 11 22"),
])
def test_memory_is_written_by_any_address(timer, line, said):
    assert timer.do(line) == said


@pytest.mark.parametrize(("line", "words"), [
    ("write gva rsp", "text is missing"),
    ("write here 0 u8 1", "`here` is no kind of address"),
    ("write gva rsp 1", "`1` is nothing to write; there are bytes, text, u8"),
    ("write gva rsp u8 256", "0x100 does not fit u8"),
    ("write gva rsp u8", "0 bytes are out of range 1..4096"),
    ("write gva rsp bytes 9", "a byte has two digits"),
    ("write gva rsp bytes xy", "are no hexadecimal bytes"),
    ("write gva rsp text hello", "`hello` is no text"),
    ("write gva rsp text b'x'", "is no text"),
    ("write gva rsp text '\\ud800'", "what UTF-8 cannot say"),
    ("write gpa 0x4000000000 u8 1", "guest-physical 0x4000000000 of partition 2 is not mapped; `map`"),
    ("write gpa 0xffffffffffffffff u16 1", "is not mapped"),
    ("write spa 0x10000000 u8 1", "is no RAM"),
    ("write gva 0x4000000000 u8 1", "exception 14 at 0x4000000000"),
])
def test_what_cannot_be_written_is_refused(timer, line, words):
    assert words in refused(timer, line)


def test_rights_hold_for_the_guest_and_are_said(timer):
    space = timer.vp.partition.space
    page = 0x50
    space.map(page, space.mapping(page).spa >> 12, 1)
    assert timer.do("write gpa 0x50000 u8 1").splitlines()[1] == "the EPT does not let the guest write to 0x50000"
    assert space.read(0x50000, 1) == b"\1"


def test_a_page_of_the_hypervisor_is_told(timer):
    root = timer.vp.partition.space.tables.root
    assert "the hypervisor's" in timer.do(f"write spa {root + 0xFF8:#x} u8 0")


def test_the_answer_is_data_too(timer):
    assert plain_data(timer.value("set rax 5")) == {"what": "rax", "before": 0, "now": 5, "notes": []}
    assert plain_data(timer.value("write gpa 0x50000 u8 5"))["now"] == "05"


@pytest.mark.parametrize(("line", "said"), [
    ("rdmsr IA32_EFER", "IA32_EFER  0xd00"),
    ("rdmsr 0xc0000080", "IA32_EFER  0xd00"),
    ("wrmsr IA32_LSTAR start + 1", "IA32_LSTAR  0 -> 0x10001"),
    ("wrmsr HV_X64_MSR_SINT2 0x50", "HV_X64_MSR_SINT2  0x10000 -> 0x50"),
    ("wrmsr simp 0x20001", "HV_X64_MSR_SIMP  0 -> 0x20001"),
    ("wrmsr HV_X64_MSR_EOM 0", "HV_X64_MSR_EOM  0, as before"),
    ("wrmsr HV_X64_MSR_EOI 0", "HV_X64_MSR_EOI  (only written) -> 0"),
    ("vmwrite guest_rip start + 4", "GUEST_RIP  0x10000 -> 0x10004"),
    ("vmwrite EXCEPTION_BITMAP 1 << 14", "EXCEPTION_BITMAP  0 -> 0x4000"),
    ("vmwrite EXIT_REASON 10", "EXIT_REASON  0 -> 0xa"),
])
def test_msrs_and_vmcs_fields_are_written(timer, line, said):
    assert timer.do(line) == said


def test_an_msr_is_shown_with_its_bits(timer):
    assert timer.value("rdmsr HV_X64_MSR_SINT2") == {
        "HV_X64_MSR_SINT2": 0x10000, "vector": 0, "masked": 1, "auto_eoi": 0, "polling": 0, "as_intercept": 0,
        "proxy": 0, "reserved_15_8": 0, "reserved_63_21": 0}


@pytest.mark.parametrize(("line", "words"), [
    ("rdmsr HV_X64_MSR_SIMQ", "near: HV_X64_MSR_SIMP"),
    ("rdmsr HV_X64_MSR_SIRBP", "cannot be read; event rings"),
    ("rdmsr HV_X64_MSR_EOI", "cannot be read; a guest's RDMSR of it is #GP"),
    ("rdmsr 0x100000000", "is out of range 0..2^32-1"),
    ("wrmsr 0x12345 1", "MSR 0x12345 is not there, or is only read"),
    ("wrmsr IA32_EFER 2", "0x2 to MSR 0xc0000080: the guest's own write of it would be exception 13"),
    ("wrmsr HV_X64_MSR_VP_INDEX 1", "would be exception 13"),
    ("wrmsr HV_X64_MSR_SINT2 5", "would be exception 13"),
    ("vmwrite GUEST_RIX 1", "`GUEST_RIX` is no VMCS field; near: GUEST_RIP"),
    ("vmwrite GUEST_ES_SELECTOR 0x12345", "does not fit GUEST_ES_SELECTOR, which has 16 bits"),
    ("vmwrite GUEST_IA32_FRED_CONFIG 1", "fails: VMREAD or VMWRITE of a field this processor does not have"),
])
def test_what_an_msr_or_the_vmcs_does_not_take_is_refused(timer, line, words):
    assert words in refused(timer, line)


def test_a_synthetic_msr_does_what_it_does_for_the_guest(timer):
    """TLFS "SIMP": the message page lies where it says, from then on."""
    timer.do("wrmsr HV_X64_MSR_SIMP 0x20001")
    assert timer.vp.partition.space.overlay_at(0x20).name == "SIMP of vp 0"


def test_a_vmcs_that_cannot_be_entered_ends_the_vm_as_vm_entry_does(timer):
    assert "the next VM entry fails: VMfail 7: eptp-page-walk-length" in timer.do("vmwrite EPT_POINTER 0x1000")
    assert "VM entry failed" in timer.do("continue")


def test_a_field_takes_effect_at_the_next_entry(timer):
    """SDM "Exception Bitmap": #UD exits once its bit is 1."""
    timer.do("write gva start bytes 0f 0b")
    timer.do("vmwrite EXCEPTION_BITMAP 1 << 6")
    timer.do("step")
    assert "EXCEPTION_OR_NMI" in timer.do("exits 3")


def test_it_is_said_when_the_parent_is_about_to_write_registers(timer):
    timer.do("stop port 0x3f8")
    timer.do("continue")
    assert "its parent is about to answer an exit" in timer.do("set rax 5")
