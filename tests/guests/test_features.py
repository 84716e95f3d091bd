"""What CPUID says of the processor: its leaves agree with one another, and what they offer can be executed."""

import pytest

from hv.hypervisor.partitions.processor_leaves import (
    ADDRESS_BITS_PHYSICAL,
    caches,
    core_bits,
    features,
    processor_leaves,
    topology,
)
from hv.machine.paging import PHYSICAL_BITS
from hv.spec.cpuid import (
    CpuidLeaf,
    ExtendedFeaturesEbx,
    ExtendedFeaturesEdx,
    ExtendedSignatureEcx,
    ExtendedSignatureEdx,
    FeaturesEcx,
    FeaturesEdx,
)
from tests.guests.attempts import attempt

UD = 6
LEAVES = processor_leaves()
_E, _D, _B, _7D, _S, _X = (FeaturesEcx, FeaturesEdx, ExtendedFeaturesEbx, ExtendedFeaturesEdx, ExtendedSignatureEcx,
                           ExtendedSignatureEdx)
# leaf, place of the register, bit -> code that uses the feature; operands are at [rbx], aligned
USES = {
    (1, 2, _E.SSE3): "f20fd0c1", (1, 2, _E.PCLMULQDQ): "660f3a44c100", (1, 2, _E.SSSE3): "660f381cc1",
    (1, 2, _E.CMPXCHG16B): "480fc70b", (1, 2, _E.SSE4_1): "660f3840c1", (1, 2, _E.SSE4_2): "f2480f38f1c0",
    (1, 2, _E.POPCNT): "f3480fb8c0", (1, 2, _E.AES): "660f38dcc1", (1, 2, _E.X2APIC): "b91b0000000f32",
    (1, 2, _E.TSC_DEADLINE): "b9e00600000f32", (1, 2, _E.HYPERVISOR): "b8000000400fa2bb00002200",
    (1, 3, _D.FPU): "d9e8", (1, 3, _D.DE): "0f20e04883c8080f22e0", (1, 3, _D.PSE): "0f20e04883c8100f22e0",
    (1, 3, _D.TSC): "0f31", (1, 3, _D.MSR): "b9100000000f32", (1, 3, _D.PAE): "0f20e0",
    (1, 3, _D.MCE): "0f20e04883c8400f22e0", (1, 3, _D.CX8): "0fc70b", (1, 3, _D.APIC): "b91b0000000f32",
    (1, 3, _D.SEP): "b9740100000f32", (1, 3, _D.MTRR): "b9fe0000000f32", (1, 3, _D.PGE): "0f20e00c800f22e0",
    (1, 3, _D.MCA): "b9790100000f32", (1, 3, _D.CMOV): "0f44c1", (1, 3, _D.PAT): "b9770200000f32",
    (1, 3, _D.PSE36): "90", (1, 3, _D.CLFSH): "0fae3b", (1, 3, _D.MMX): "0fefc00f77", (1, 3, _D.FXSR): "0fae03",
    (1, 3, _D.SSE): "0f58c1", (1, 3, _D.SSE2): "660f58c1",
    (7, 1, _B.TSC_ADJUST): "b93b0000000f32", (7, 1, _B.SMEP): "0f20e0480fbae8140f22e0480fbaf0140f22e0",
    (7, 3, _7D.IBRS): "b9480000000f32", (7, 3, _7D.ARCH_CAPABILITIES): "b90a0100000f32",
    (0x80000001, 2, _S.LAHF_SAHF): "9f", (0x80000001, 2, _S.LZCNT): "f3480fbdc0",
    (0x80000001, 2, _S.PREFETCHW): "0f0d0b", (0x80000001, 3, _X.SYSCALL): "90", (0x80000001, 3, _X.NX): "90",
    (0x80000001, 3, _X.PAGE_1GB): "90", (0x80000001, 3, _X.RDTSCP): "0f01f9", (0x80000001, 3, _X.LONG_MODE): "90",
}
# The bit of each is not offered, and the manual says #UD.
UNDEFINED = {
    "monitor": "0f01c8", "mwait": "0f01c9", "movbe": "0f38f003", "xgetbv": "0f01d0", "xsetbv": "0f01d1",
    "xsave": "0fae23", "rdrand": "0fc7f0", "rdseed": "0fc7f8", "rdfsbase": "f30faec0", "wrgsbase": "f30faed8",
    "andn": "c4e2f8f2c0", "pdep": "c4e2fbf5c0", "adcx": "660f38f6c0", "stac": "0f01cb", "clac": "0f01ca",
    "invpcid": "660f38820b", "sha1rnds4": "0f3accc000", "rdpkru": "0f01ee", "rdpid": "f30fc7f8",
    "clflushopt": "660fae3b", "serialize": "0f01e8", "vmcall-of-amd": "0f01d9", "getsec": "0f37", "xtest": "0f01d6",
    "ud0": "0fffc0", "ud1": "0fb9c0", "ud2": "0f0b", "femms": "0f0e",
}


def _offered():
    for leaf, place, names in ((1, 2, _E), (1, 3, _D), (7, 1, _B), (7, 3, _7D), (0x80000001, 2, _S),
                               (0x80000001, 3, _X)):
        yield from ((leaf, place, bit) for bit in names if LEAVES[leaf][place] & bit)


@pytest.fixture(scope="module")
def tried():
    codes = [*USES.values(), *UNDEFINED.values()]
    return attempt([f"mov ebx, 0x220000; .byte {', '.join(f'0x{byte:02x}' for byte in bytes.fromhex(code))}"
                    for code in codes])


def test_every_bit_offered_has_a_name_and_a_use():
    assert set(_offered()) == set(USES)
    named = {place: sum(bit for leaf, at, bit in USES if (leaf, at) == place) for place in {key[:2] for key in USES}}
    assert {(leaf, at): LEAVES[leaf][at] for leaf, at in named} == {key: int(bits) for key, bits in named.items()}


def test_what_is_offered_can_be_executed(tried):
    assert {bit.name: tried.vector(n) for n, (_, _, bit) in enumerate(USES) if tried.vector(n) is not None} == {}


def test_what_is_not_offered_is_an_invalid_opcode(tried):
    """SDM volume 2, "#UD If CPUID..." of each instruction."""
    found = {name: tried.vector(n) for n, name in enumerate(UNDEFINED, len(USES))}
    assert found == dict.fromkeys(UNDEFINED, UD)


def test_addresses_are_as_wide_as_paging_has_them():
    assert LEAVES[0x80000008][0] == ADDRESS_BITS_PHYSICAL | 48 << 8
    assert ADDRESS_BITS_PHYSICAL == PHYSICAL_BITS


def test_the_counters_frequency_is_a_multiple_of_the_apics():
    """SDM "CPUID", leaf 15H: TSC Hz = crystal Hz * EBX / EAX; leaf 16H in MHz."""
    denominator, numerator, crystal, _ = LEAVES[CpuidLeaf.TSC_FREQUENCY]
    assert crystal * numerator // denominator == LEAVES[CpuidLeaf.PROCESSOR_FREQUENCY][0] * 1_000_000


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 33, 64])
def test_the_leaves_of_topology_agree(count):
    """SDM volume 3 "Hierarchical Mapping of Shared Resources": leaves 1, 4 and 0xB number the same processors."""
    for apic_id in range(count):
        _, ebx, _, edx = features(LEAVES[1], apic_id, count, True)
        smt, cores, none = (topology(n, apic_id, count) for n in range(3))
        assert (smt[0], smt[1], smt[2], none[:3]) == (0, 1, 0x100, (0, 0, 2))
        assert (cores[0], cores[1], cores[2], cores[3]) == (core_bits(count), count, 0x201, apic_id)
        assert (ebx >> 24, ebx >> 16 & 0xFF) == (apic_id, 1 << cores[0])
        assert bool(edx & FeaturesEdx.HTT) == (count > 1)
        assert apic_id >> cores[0] == 0                     # one package
        assert (caches(0, count)[0] >> 26) + 1 == 1 << cores[0]


def test_the_caches_have_sizes():
    """Ways, partitions, line size and sets, each one more than its field; SDM "CPUID", leaf 4."""
    sizes = [((ebx >> 22) + 1) * ((ebx >> 12 & 0x3FF) + 1) * ((ebx & 0xFFF) + 1) * (ecx + 1)
             for _, ebx, ecx, _ in (caches(n, 1) for n in range(3))]
    assert sizes == [32 << 10, 32 << 10, 4 << 20]
    assert caches(3, 1) == (0, 0, 0, 0)
    assert LEAVES[CpuidLeaf.L2_CACHE][2] >> 16 == sizes[2] >> 10


def test_an_apic_that_is_off_is_not_there():
    """SDM "Enabling or Disabling the Local APIC": CPUID.01H:EDX[9] is 0 while it is disabled."""
    source = ("mov eax, 1; cpuid; mov [0x220000], edx; mov ecx, 0x1B; rdmsr; and eax, 0xFFFFF7FF; wrmsr; mov eax, 1;"
              "cpuid; mov [0x220004], edx; mov eax, 0xB; mov ecx, 1; cpuid; mov [0x220008], ebx; mov [0x22000C], edx")
    memory = attempt([source], vps=2).result.memory
    on, off, count, apic_id = (int.from_bytes(memory[at : at + 4], "little") for at in range(0x220000, 0x220010, 4))
    assert (on & FeaturesEdx.APIC, off & FeaturesEdx.APIC, count, apic_id) == (FeaturesEdx.APIC, 0, 2, 0)
