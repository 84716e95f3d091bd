"""The processor's own MSRs as a kernel meets them: values that are kept, values that are refused; SDM volume 4."""

import pytest

from hv.spec.msrs import FIXED_MTRRS, VARIABLE_MTRRS, Msr
from hv.trace.events import MsrIgnored
from tests.guest_runner import run_guest
from tests.guests.attempts import attempt

GP = 13
HIGH = 0xFFFF_8000_0000_0000
NOT_CANONICAL = 1 << 47
ADDRESSES = (Msr.LSTAR, Msr.CSTAR, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP)
(BASE, MASK), DEF_TYPE, FIXED = VARIABLE_MTRRS[7], Msr.MTRR_DEF_TYPE, FIXED_MTRRS[0]

KEPT = [
    *((base, n << 12 | 6) for n, (base, _) in enumerate(VARIABLE_MTRRS)),
    *((mask, 0xFF_FFF0_0800 - (n << 20)) for n, (_, mask) in enumerate(VARIABLE_MTRRS)),
    *((index, 0x0606_0504_0100_0600 + n) for n, index in enumerate(FIXED_MTRRS[:2])),
    *((index, 0x0505_0505_0505_0505) for index in FIXED_MTRRS[2:]),
    (DEF_TYPE, 0xC06), (DEF_TYPE, 0), (DEF_TYPE, 0x800), (Msr.PAT, 0x0407_0605_0100_0706), (Msr.SPEC_CTRL, 3),
    (Msr.SPEC_CTRL, 0), (Msr.TSC_AUX, 0xFFFF_FFFF), (Msr.STAR, 0x0023_0010_1234_5678), (Msr.SFMASK, 0x47700),
    (Msr.SYSENTER_CS, 0x10), (Msr.MCG_STATUS, 7), (Msr.MCG_STATUS, 0), (Msr.MISC_ENABLE, 0x1800),
    (Msr.MISC_ENABLE, 0x1801), (Msr.DEBUGCTL, 0), *((index, HIGH | 0x1000) for index in ADDRESSES),
]
REFUSED = [
    (Msr.MTRRCAP, 0), (DEF_TYPE, 2), (DEF_TYPE, 7), (DEF_TYPE, 1 << 8), (DEF_TYPE, 1 << 12), (FIXED, 2),
    (FIXED, 7 << 56), (BASE, 3), (BASE, 1 << 8 | 6), (BASE, 1 << 40 | 6), (MASK, 1), (MASK, 1 << 40 | 0x800),
    (Msr.PAT, 2), (Msr.PAT, 8 << 56), (Msr.SPEC_CTRL, 1 << 63), (Msr.SPEC_CTRL, 1 << 4), (Msr.PRED_CMD, 2),
    (Msr.ARCH_CAPABILITIES, 0), (Msr.PLATFORM_INFO, 0), (Msr.TSC_AUX, 1 << 32), (Msr.SFMASK, 1 << 32),
    (Msr.MCG_CAP, 0), (Msr.MCG_STATUS, 1 << 3), (Msr.MCG_CTL, 0), (Msr.EFER, 1 << 1), (Msr.EFER, 1 << 12),
    (Msr.EFER, 0), (Msr.DEBUGCTL, 1 << 63), (Msr.FEATURE_CONTROL, 1), (Msr.MC0_CTL, 0), (0x1234, 0), (0x4000_1FFF, 0),
    *((index, NOT_CANONICAL) for index in ADDRESSES), *((index, HIGH - 1) for index in ADDRESSES),
]
# With 8 variable ranges the ninth is not there.
ABSENT = [Msr.MTRR_PHYSMASK7 + 1, Msr.FEATURE_CONTROL, Msr.MC0_STATUS, Msr.MCG_CTL, Msr.PRED_CMD, Msr.PMC0, 0x1234,
          0xC001_0015, Msr.XSS, Msr.U_CET]
CONSTANT = {Msr.MTRRCAP: 0x508, Msr.PLATFORM_INFO: 0x1400_0000_1400, Msr.MCG_CAP: 0, Msr.BIOS_SIGN_ID: 1 << 32,
            Msr.P5_MC_TYPE: 0, Msr.ARCH_CAPABILITIES: 0x4000_0000_0D10_E17B}
RESULTS = 0x210000


def _write(index: int, value: int) -> str:
    return f"mov ecx, {index:#x}; mov eax, {value & 0xFFFF_FFFF:#x}; mov edx, {value >> 32:#x}; wrmsr"


def _read(index: int, number: int) -> str:
    place = RESULTS + 8 * number
    return f"mov ecx, {index:#x}; rdmsr; mov [{place:#x}], eax; mov [{place + 4:#x}], edx"


@pytest.fixture(scope="module")
def tried():
    writes = [f"{_write(index, value)}; {_read(index, n)}" for n, (index, value) in enumerate(KEPT)]
    reads = [_read(index, len(KEPT) + n) for n, index in enumerate(CONSTANT)]
    refused = [_write(index, value) for index, value in REFUSED]
    return attempt([*writes, *reads, *refused, *(_read(index, 500) for index in ABSENT), _write(Msr.PRED_CMD, 1),
                    "nop"])


def _result(tried, number):
    place = RESULTS + 8 * number
    return int.from_bytes(tried.result.memory[place : place + 8], "little")


def test_what_is_legal_is_kept(tried):
    for number, (index, value) in enumerate(KEPT):
        assert (hex(index), tried[number], hex(_result(tried, number))) == (hex(index), None, hex(value))


def test_what_the_processor_is_it_says(tried):
    for number, (index, value) in enumerate(CONSTANT.items(), len(KEPT)):
        assert (hex(index), tried[number], hex(_result(tried, number))) == (hex(index), None, hex(value))


def test_reserved_bits_types_and_addresses_are_general_protection(tried):
    """SDM "WRMSR": #GP(0), at the instruction."""
    first = len(KEPT) + len(CONSTANT)
    for number, (index, value) in enumerate(REFUSED, first):
        raised = tried[number]
        assert raised is not None, (hex(index), hex(value))
        assert (raised.vector, raised.error_code) == (GP, 0)


def test_an_msr_that_is_not_there_is_general_protection(tried):
    first = len(KEPT) + len(CONSTANT) + len(REFUSED)
    assert [hex(index) for n, index in enumerate(ABSENT, first) if tried.vector(n) != GP] == []


def test_a_barrier_of_predictions_is_only_written(tried):
    assert tried[len(KEPT) + len(CONSTANT) + len(REFUSED) + len(ABSENT)] is None


# --- time ------------------------------------------------------------------------------------------------

TIME = """
mov ecx, 0x10; rdmsr; mov esi, edx;
mov eax, 0; mov edx, 0x100; wrmsr; rdmsr; mov [0x220000], edx; mov ecx, 0x3B; rdmsr; mov [0x220004], edx;
xor eax, eax; xor edx, edx; wrmsr; mov ecx, 0x10; rdmsr; mov [0x220008], edx; rdtsc; mov [0x22000C], edx;
mov ecx, 0x3B; xor eax, eax; mov edx, 0x80000000; wrmsr; rdmsr; mov [0x220010], edx; rdtsc; mov [0x220014], edx;
xor eax, eax; xor edx, edx; wrmsr;
mov ecx, 0xC0000103; mov eax, 77; wrmsr; rdtscp; mov [0x220018], ecx; mov [0x22001C], edx
""".replace("\n", " ").strip()


def test_the_adjustment_is_what_the_guest_moved_its_counter_by():
    """SDM "IA32_TSC_ADJUST Register Support": a write to either of the two moves both as far."""
    memory = attempt([TIME]).result.memory
    counter, adjusted, back, tsc, adjust, moved, aux, scp = (
        int.from_bytes(memory[at : at + 4], "little") for at in range(0x220000, 0x220020, 4))
    assert (counter, adjusted, back, tsc) == (0x100, 0xFF, 0, 0)        # the counter's low half was not 0
    assert (adjust, moved, aux, scp) == (0x8000_0000, 0x8000_0000, 77, 0)


# --- MSRs that are not there -----------------------------------------------------------------------------

def test_the_trace_tells_of_each_msr_that_is_ignored():
    """Partition property UnimplementedMsrAction = 1."""
    result = run_guest("mov ecx, 0x1234; mov eax, 7; xor edx, edx; wrmsr; rdmsr; mov ecx, 0xFE; xor eax, eax; hlt",
                       prepare=lambda machine, vm: vm.worker.ignore_msrs())
    assert (result.ended, result.rax) == ("halt", 0)
    assert result.of(MsrIgnored) == [MsrIgnored(0x1234, 7, True), MsrIgnored(0x1234, 0, False)]


def test_the_counter_of_one_vp_is_never_behind_what_another_has_read():
    """SDM "Time-Stamp Counter": all count together. The second VP is started by INIT and SIPI, at the same loop."""
    start = ("mov edx, 0xFEE00000; mov dword ptr [rdx + 0xF0], 0x1FF; mov dword ptr [rdx + 0x310], 0x1000000; "
             "mov dword ptr [rdx + 0x300], 0x4500; mov dword ptr [rdx + 0x300], 0x4608; "
             "wait: pause; cmp dword ptr [0x9000], 1000; jb wait; mov eax, [0x9004]; mov [0x220014], eax; "
             "rdtsc; mov [0x220010], eax")
    # In real mode: count at 0x9000, and keep the low half of the counter at 0x9004.
    second = bytes.fromhex("31c08ed8 0f31 66a30490 66ff060090 ebf3".replace(" ", ""))
    memory = attempt([start], data={0x8000: second}, vps=2).result.memory
    first, other = (int.from_bytes(memory[place : place + 4], "little") for place in (0x220010, 0x220014))
    assert 0 < other <= first < other + 1_000_000
