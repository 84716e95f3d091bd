"""The architectural leaves of CPUID: one processor of family 6, the same on every host, and the same in every leaf.

SDM volume 2 "CPUID". A feature is offered only if the engine executes it and this layer keeps its rules. REP MOVSB is
not called fast (ERMS): the engine moves it byte by byte.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from hv.machine.clock import APIC_BUS_HZ, TSC_HZ
from hv.spec.cpuid import (
    CacheAssociativity,
    CacheLevel,
    CacheSharing,
    CpuidLeaf,
    ExtendedFeaturesEbx,
    ExtendedFeaturesEdx,
    ExtendedSignatureEcx,
    ExtendedSignatureEdx,
    FeaturesEbx,
    FeaturesEcx,
    FeaturesEdx,
    L2Cache,
    PowerFeatures,
    Signature,
    TopologyLevel,
)

Answer = tuple[int, int, int, int]      # EAX, EBX, ECX, EDX

ADDRESS_BITS_PHYSICAL, ADDRESS_BITS_LINEAR = 40, 48
VENDOR = b"GenuineIntel"                # EBX, EDX, ECX of leaf 0
BRAND = b"hvlab virtual processor"
MAX_BASIC_LEAF = CpuidLeaf.PROCESSOR_FREQUENCY
MAX_EXTENDED_LEAF = CpuidLeaf.ADDRESS_SIZES
NOTHING: Answer = (0, 0, 0, 0)

_E, _D, _7B, _7D = FeaturesEcx, FeaturesEdx, ExtendedFeaturesEbx, ExtendedFeaturesEdx
_S, _X = ExtendedSignatureEcx, ExtendedSignatureEdx
_ECX = int(_E.SSE3 | _E.PCLMULQDQ | _E.SSSE3 | _E.CMPXCHG16B | _E.SSE4_1 | _E.SSE4_2 | _E.X2APIC | _E.POPCNT
           | _E.TSC_DEADLINE | _E.AES | _E.HYPERVISOR)
_EDX = int(_D.FPU | _D.DE | _D.PSE | _D.TSC | _D.MSR | _D.PAE | _D.MCE | _D.CX8 | _D.APIC | _D.SEP | _D.MTRR | _D.PGE
           | _D.MCA | _D.CMOV | _D.PAT | _D.PSE36 | _D.CLFSH | _D.MMX | _D.FXSR | _D.SSE | _D.SSE2)
_APIC, _HTT = int(_D.APIC), int(_D.HTT)
_USE_LEAF_4 = 0xFF01                    # a descriptor that says so, and the count of 1 in AL
_LINE, _MHZ = 64, 1_000_000             # bytes of a cache line
_SMT, _CORE = 1, 2                      # types of a level of topology


class CacheType(IntEnum):
    """Of a subleaf of leaf 4."""

    NONE = 0
    DATA = 1
    INSTRUCTION = 2
    UNIFIED = 3


_CACHES = ((CacheType.DATA, 1, 8, 64), (CacheType.INSTRUCTION, 1, 8, 64), (CacheType.UNIFIED, 2, 16, 4096))


def processor_leaves() -> dict[int, Answer]:
    """The leaves that are the same for every VP."""
    first, second, third = _words(VENDOR)
    brand = _words(BRAND.ljust(48, b"\0"))
    answers = {
        CpuidLeaf.VENDOR: (int(MAX_BASIC_LEAF), first, third, second),
        CpuidLeaf.FEATURES: (Signature(family=6, model=0xF, stepping=1).raw,
                             FeaturesEbx(clflush_size=_LINE // 8, logical_processors=1).raw, _ECX, _EDX),
        CpuidLeaf.CACHE_AND_TLB: (_USE_LEAF_4, 0, 0, 0),
        CpuidLeaf.POWER: (PowerFeatures(apic_timer_always_runs=1).raw, 0, 0, 0),
        CpuidLeaf.EXTENDED_FEATURES: (0, int(_7B.TSC_ADJUST | _7B.SMEP), 0, int(_7D.IBRS | _7D.ARCH_CAPABILITIES)),
        CpuidLeaf.TSC_FREQUENCY: (1, TSC_HZ // APIC_BUS_HZ, APIC_BUS_HZ, 0),
        CpuidLeaf.PROCESSOR_FREQUENCY: (TSC_HZ // _MHZ, TSC_HZ // _MHZ, APIC_BUS_HZ // _MHZ, 0),
        CpuidLeaf.EXTENDED_MAX: (int(MAX_EXTENDED_LEAF), 0, 0, 0),
        CpuidLeaf.EXTENDED_SIGNATURE: (0, 0, int(_S.LAHF_SAHF | _S.LZCNT | _S.PREFETCHW),
                                       int(_X.SYSCALL | _X.NX | _X.PAGE_1GB | _X.RDTSCP | _X.LONG_MODE)),
        CpuidLeaf.L2_CACHE: (0, 0, L2Cache(line_size=_LINE, associativity=8, size_kib=4096).raw, 0),
        CpuidLeaf.ADDRESS_SIZES: (ADDRESS_BITS_PHYSICAL | ADDRESS_BITS_LINEAR << 8, 0, 0, 0),
    }
    for n, leaf in enumerate((CpuidLeaf.BRAND_0, CpuidLeaf.BRAND_1, CpuidLeaf.BRAND_2)):
        answers[leaf] = (brand[4 * n], brand[4 * n + 1], brand[4 * n + 2], brand[4 * n + 3])
    return {int(leaf): answer for leaf, answer in answers.items()}


def _words(text: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(text) // 4}I", text)


# --- What is said of one VP, or of how many there are ----------------------------------------------

def features(common: Answer, apic_id: int, vp_count: int, has_apic: bool) -> Answer:
    """Leaf 1; CPUID says of an APIC that is switched off that there is none."""
    eax, ebx, ecx, edx = common
    ebx = FeaturesEbx(ebx, initial_apic_id=apic_id & 0xFF, logical_processors=1 << core_bits(vp_count)).raw
    return eax, ebx, ecx, edx & ~(0 if has_apic else _APIC) | (_HTT if vp_count > 1 else 0)


def caches(subleaf: int, vp_count: int) -> Answer:
    """Leaf 4: caches of each core, and one that all share."""
    if subleaf >= len(_CACHES):
        return NOTHING
    kind, level, ways, sets = _CACHES[subleaf]
    last_id = (1 << core_bits(vp_count)) - 1
    shared = last_id if kind is CacheType.UNIFIED else 0
    return (CacheLevel(type=kind, level=level, self_initializing=1).raw
            | CacheSharing(last_thread=shared, last_core=min(last_id, 63)).raw,
            CacheAssociativity(last_byte=_LINE - 1, last_way=ways - 1).raw, sets - 1, 0)


def topology(subleaf: int, apic_id: int, vp_count: int) -> Answer:
    """Leaf 0xB: each VP is a core with one thread, and all are in one package."""
    if subleaf == 0:
        return 0, 1, TopologyLevel(number=0, type=_SMT).raw, apic_id
    if subleaf == 1:
        return core_bits(vp_count), vp_count, TopologyLevel(number=1, type=_CORE).raw, apic_id
    return 0, 0, TopologyLevel(number=subleaf & 0xFF).raw, apic_id


def core_bits(vp_count: int) -> int:
    """How many bits of an APIC ID number the VPs."""
    return (vp_count - 1).bit_length()
