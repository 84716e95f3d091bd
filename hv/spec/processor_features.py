"""Processor features by the hypervisor's numbers: what a parent may take from a child when it creates it.

TLFS "HV_PARTITION_PROCESSOR_FEATURES" (bank 0; bank 1 has none that this processor knows). `CPUID_BITS` says where
CPUID reports each.
"""

from __future__ import annotations

from hv.spec.cpuid import (
    CpuidLeaf,
    ExtendedFeaturesEbx,
    ExtendedFeaturesEcx,
    ExtendedFeaturesEdx,
    ExtendedSignatureEcx,
    ExtendedSignatureEdx,
    FeaturesEcx,
)
from hv.spec.numbering import Flags


class HvProcessorFeatures(Flags):
    """Bank 0 of HV_PARTITION_PROCESSOR_FEATURES, as far as CPUID reports it."""

    SSE3 = 1 << 0
    LAHF_SAHF = 1 << 1
    SSSE3 = 1 << 2
    SSE4_1 = 1 << 3
    SSE4_2 = 1 << 4
    SSE4A = 1 << 5
    XOP = 1 << 6
    POPCNT = 1 << 7
    CMPXCHG16B = 1 << 8
    ALT_MOV_CR8 = 1 << 9
    LZCNT = 1 << 10
    MISALIGNED_SSE = 1 << 11
    MMX_EXT = 1 << 12
    AMD_3DNOW = 1 << 13
    AMD_3DNOW_EXT = 1 << 14
    PAGE_1GB = 1 << 15
    AES = 1 << 16
    PCLMULQDQ = 1 << 17
    PCID = 1 << 18
    FMA4 = 1 << 19
    F16C = 1 << 20
    RDRAND = 1 << 21
    RD_WR_FS_GS = 1 << 22
    SMEP = 1 << 23
    ENHANCED_FAST_STRING = 1 << 24
    BMI1 = 1 << 25
    BMI2 = 1 << 26
    MOVBE = 1 << 29
    RDSEED = 1 << 32
    ADX = 1 << 33
    INTEL_PREFETCH = 1 << 34
    SMAP = 1 << 35
    HLE = 1 << 36
    RTM = 1 << 37
    RDTSCP = 1 << 38
    CLFLUSHOPT = 1 << 39
    CLWB = 1 << 40
    SHA = 1 << 41
    INVPCID = 1 << 43
    FAST_SHORT_REP_MOV = 1 << 49
    RDPID = 1 << 57
    UMIP = 1 << 58


_P = HvProcessorFeatures
_EBX, _ECX, _EDX = 1, 2, 3
_FEATURES, _EXTENDED, _SIGNATURE = CpuidLeaf.FEATURES, CpuidLeaf.EXTENDED_FEATURES, CpuidLeaf.EXTENDED_SIGNATURE
_F, _B, _S, _D = FeaturesEcx, ExtendedFeaturesEbx, ExtendedSignatureEcx, ExtendedSignatureEdx

# feature -> (leaf, place of the register in EAX, EBX, ECX, EDX, bit)
CPUID_BITS: dict[HvProcessorFeatures, tuple[CpuidLeaf, int, int]] = {
    **{feature: (_FEATURES, _ECX, int(bit)) for feature, bit in {
        _P.SSE3: _F.SSE3, _P.SSSE3: _F.SSSE3, _P.SSE4_1: _F.SSE4_1, _P.SSE4_2: _F.SSE4_2, _P.POPCNT: _F.POPCNT,
        _P.CMPXCHG16B: _F.CMPXCHG16B, _P.AES: _F.AES, _P.PCLMULQDQ: _F.PCLMULQDQ, _P.PCID: _F.PCID, _P.F16C: _F.F16C,
        _P.RDRAND: _F.RDRAND, _P.MOVBE: _F.MOVBE}.items()},
    **{feature: (_EXTENDED, _EBX, int(bit)) for feature, bit in {
        _P.RD_WR_FS_GS: _B.FSGSBASE, _P.SMEP: _B.SMEP, _P.ENHANCED_FAST_STRING: _B.ERMS, _P.BMI1: _B.BMI1,
        _P.BMI2: _B.BMI2, _P.RDSEED: _B.RDSEED, _P.ADX: _B.ADX, _P.SMAP: _B.SMAP, _P.HLE: _B.HLE, _P.RTM: _B.RTM,
        _P.CLFLUSHOPT: _B.CLFLUSHOPT, _P.CLWB: _B.CLWB, _P.SHA: _B.SHA, _P.INVPCID: _B.INVPCID}.items()},
    _P.RDPID: (_EXTENDED, _ECX, int(ExtendedFeaturesEcx.RDPID)),
    _P.UMIP: (_EXTENDED, _ECX, int(ExtendedFeaturesEcx.UMIP)),
    _P.FAST_SHORT_REP_MOV: (_EXTENDED, _EDX, int(ExtendedFeaturesEdx.FSRM)),
    **{feature: (_SIGNATURE, _ECX, int(bit)) for feature, bit in {
        _P.LAHF_SAHF: _S.LAHF_SAHF, _P.SSE4A: _S.SSE4A, _P.XOP: _S.XOP, _P.ALT_MOV_CR8: _S.CR8_LEGACY,
        _P.LZCNT: _S.LZCNT, _P.MISALIGNED_SSE: _S.MISALIGNED_SSE, _P.FMA4: _S.FMA4,
        _P.INTEL_PREFETCH: _S.PREFETCHW}.items()},
    **{feature: (_SIGNATURE, _EDX, int(bit)) for feature, bit in {
        _P.MMX_EXT: _D.MMX_EXT, _P.AMD_3DNOW: _D.AMD_3DNOW, _P.AMD_3DNOW_EXT: _D.AMD_3DNOW_EXT,
        _P.PAGE_1GB: _D.PAGE_1GB, _P.RDTSCP: _D.RDTSCP}.items()},
}
