"""Each field that VM entry checks, bit by bit and at its boundaries: where the valid values end, and how entry fails.

The rows of `rows.py` break each rule once. Here the fields are swept, so that a rule which is too strict, or a bit too
lax, shows.
"""

from __future__ import annotations

from itertools import product

import pytest

from hv.spec.exits import ENTRY_FAILURES
from hv.spec.msrs import Msr
from hv.vmx.capabilities import COMPLETE, PROCESSOR
from hv.vmx.checks import Entry, entry_result
from hv.vmx.checks.example import valid_guest
from tests.vmx.checks.guest_rows import PAE, PROTECTED, URG
from tests.vmx.checks.rows import (
    APIC,
    CURRENT,
    VALID,
    VIRTUAL_APIC,
    E,
    F,
    P,
    PinControls,
    S,
    Values,
    X,
    inject,
    memory,
    on_entry,
    on_exit,
    pin,
    primary,
    secondary,
)

RAM = memory()
WIDTH = PROCESSOR.physical_bits
ENTERED, CONTROLS, HOST, GUEST, PDPTE = "entered", "VMfail 7", "VMfail 8", "VM exit 33.0", "VM exit 33.2"
POSTED = APIC | secondary(S.VIRTUAL_INTERRUPT_DELIVERY) | pin(PinControls.PROCESS_POSTED_INTERRUPTS) \
    | on_exit(X.ACKNOWLEDGE_INTERRUPT)


def outcome(changes: Values) -> str:
    """How the entry of the small valid guest with *changes* ends."""
    result = entry_result(Entry(valid_guest() | changes, PROCESSOR, RAM, True, CURRENT))
    if result.failure is None:
        return ENTERED
    if result.error is not None:
        return f"VMfail {int(result.error)}"
    assert result.exit_reason is not None
    assert result.exit_reason.entry_failure
    assert result.exit_reason.basic in ENTRY_FAILURES
    return f"VM exit {result.exit_reason.basic}.{int(result.qualification)}"


def taken(field: F, values: dict[int, bool], otherwise: str, before: Values) -> None:
    """Entry takes exactly the values of *field* that are True; the others end as *otherwise* says."""
    for value, good in values.items():
        assert outcome(before | {field: value}) == (ENTERED if good else otherwise), f"{field.name} = {value:#x}"


# --- Controls ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("field", "before", "alignment"), [
    (F.IO_BITMAP_A, primary(P.USE_IO_BITMAPS), 4096),
    (F.IO_BITMAP_B, primary(P.USE_IO_BITMAPS), 4096),
    (F.MSR_BITMAP, primary(P.USE_MSR_BITMAPS), 4096),
    (F.VIRTUAL_APIC_PAGE_ADDR, primary(P.USE_TPR_SHADOW), 4096),
    (F.APIC_ACCESS_ADDR, secondary(S.VIRTUALIZE_APIC_ACCESSES), 4096),
    (F.POSTED_INTR_DESC_ADDR, POSTED, 64),
    (F.PML_ADDRESS, secondary(S.ENABLE_PML), 4096),
    (F.VE_INFO_ADDRESS, secondary(S.EPT_VIOLATION_VE), 4096),
    (F.VM_EXIT_MSR_STORE_ADDR, {F.VM_EXIT_MSR_STORE_COUNT: 1}, 16),
    (F.VM_EXIT_MSR_LOAD_ADDR, {F.VM_EXIT_MSR_LOAD_COUNT: 1}, 16),
    (F.VM_ENTRY_MSR_LOAD_ADDR, {F.VM_ENTRY_MSR_LOAD_COUNT: 1}, 16)])
def test_an_address_is_aligned_and_narrow_enough_and_ignored_without_its_control(field, before, alignment):
    """SDM "Checks on VMX Controls": low bits 0, and no bit beyond the physical-address width."""
    values = [1 << n for n in range(64)] + [4095, 4096, (1 << WIDTH) - 4096, (1 << 64) - 1]
    taken(field, {value: not value % alignment and value < 1 << WIDTH for value in values}, CONTROLS, before)
    taken(field, dict.fromkeys(values, True), CONTROLS, {})


@pytest.mark.parametrize(("address", "count"), [
    (F.VM_EXIT_MSR_STORE_ADDR, F.VM_EXIT_MSR_STORE_COUNT), (F.VM_EXIT_MSR_LOAD_ADDR, F.VM_EXIT_MSR_LOAD_COUNT),
    (F.VM_ENTRY_MSR_LOAD_ADDR, F.VM_ENTRY_MSR_LOAD_COUNT)])
def test_the_last_byte_of_an_msr_area_is_within_the_physical_addresses(address, count):
    """SDM "VM-Exit Control Fields": the sum is computed with more bits than the width, so it does not wrap."""
    top = 1 << WIDTH
    taken(address, {top - 16: False, top - 32: True, top - 48: True}, CONTROLS, {count: 2})
    taken(address, {top - 16: False, (1 << 64) - 16: False, 0x1000: True}, CONTROLS, {count: (1 << 32) - 1})


def test_four_cr3_targets_are_the_most():
    numbers = {count: count <= 4 for count in (*range(6), (1 << 31) - 1, 1 << 31, (1 << 32) - 1)}
    taken(F.CR3_TARGET_COUNT, numbers, CONTROLS, {})


def test_numbers_of_16_bits_bit_by_bit():
    taken(F.POSTED_INTR_NOTIFICATION_VECTOR, {1 << n: n < 8 for n in range(16)}, CONTROLS, POSTED)
    taken(F.VPID, {0: False} | {1 << n: True for n in range(16)}, CONTROLS, secondary(S.ENABLE_VPID))


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("controls", [0, S.VIRTUAL_INTERRUPT_DELIVERY, S.VIRTUALIZE_APIC_ACCESSES,
                                      S.VIRTUAL_INTERRUPT_DELIVERY | S.VIRTUALIZE_APIC_ACCESSES])
def test_the_tpr_threshold_against_vtpr(controls, activated):
    """SDM "VM-Execution Control Fields". Secondary controls that are not activated count as 0."""
    ram, before = memory(), {F.SECONDARY_PROC_CONTROLS: int(controls)} | APIC
    if not activated:
        before[F.PRIMARY_PROC_CONTROLS] &= ~int(P.ACTIVATE_SECONDARY_CONTROLS)
    delivery, accesses = (bool(activated and controls & one)
                          for one in (S.VIRTUAL_INTERRUPT_DELIVERY, S.VIRTUALIZE_APIC_ACCESSES))
    for threshold, step in product((*range(16), 0x10, 1 << 31, 0xFFFF_FFFF), (-1, 0, 1)):
        vtpr = (threshold + step << 4) & 0xFF
        ram.write(VIRTUAL_APIC + 0x80, bytes((vtpr,)))
        good = delivery or (threshold < 16 and (accesses or threshold <= vtpr >> 4))
        entry = Entry(valid_guest() | before | {F.TPR_THRESHOLD: threshold}, PROCESSOR, ram, True, CURRENT)
        assert entry_result(entry).entered is good, (threshold, vtpr)


def test_every_combination_of_the_low_bits_of_an_eptp():
    """UC and WB, four levels, accessed and dirty flags or not, nothing else; SDM "VM-Execution Control Fields"."""
    taken(F.EPT_POINTER, {0x10_0000 | low: low & 7 in (0, 6) and low >> 3 & 7 == 3 and not low >> 7
                          for low in range(1 << 12)}, CONTROLS, {})
    taken(F.EPT_POINTER, {0x1E | 1 << n: n < WIDTH for n in range(12, 64)}, CONTROLS, {})


# --- Event injection ---------------------------------------------------------------------------------------------

def injectable(kind: int, vector: int, code: bool, length: int, real: bool) -> bool:
    """SDM "VM-Entry Control Fields"; 21 has an error code only with CET, which this processor has not."""
    wanted = kind == 3 and not real and vector in (8, 10, 11, 12, 13, 14, 17)
    return (kind != 1 and code is wanted and not (kind == 2 and vector != 2) and not (kind == 3 and vector > 31)
            and not (kind == 7 and vector) and not (kind in (4, 5, 6) and length > 15))


@pytest.mark.parametrize("protected", [False, True], ids=["real", "protected"])
@pytest.mark.parametrize("unrestricted", [False, True])
def test_every_type_and_vector_with_and_without_an_error_code(protected, unrestricted):
    """Without "unrestricted guest" CR0.PE does not matter to the controls; such a guest state fails later."""
    before = (URG if unrestricted else {}) | ({} if protected else PROTECTED | {F.GUEST_CR0: 0x30})
    for kind, vector, code in product(range(8), (*range(34), 255), (False, True)):
        for length in (0, 1, 15, 16, 0xFFFF_FFFF) if kind in (4, 5, 6) else (1,):
            found = outcome(before | inject(code << 11 | kind << 8 | vector, length=length))
            good = injectable(kind, vector, code, length, unrestricted and not protected)
            assert (found != CONTROLS) is good, (kind, vector, code, length)


def test_reserved_bits_of_an_injected_event():
    for n in range(12, 31):
        assert outcome(inject(0xB0D | 1 << n)) == CONTROLS
        assert outcome({F.VM_ENTRY_INTERRUPTION_INFO: 0xB0D | 1 << n}) == ENTERED       # not valid: not looked at
    taken(F.VM_ENTRY_EXCEPTION_ERROR_CODE, {1 << n: n < 16 for n in range(32)}, CONTROLS,
          {F.VM_ENTRY_INTERRUPTION_INFO: 0x8000_0B0D})


# --- Host and guest state ----------------------------------------------------------------------------------------

BOTH_HALVES = {0: True, 0x7FFF_FFFF_FFFF: True, 0x8000_0000_0000: False, 0xAAAA_AAAA_AAAA_AAAA: False,
               0xFFFF_7FFF_FFFF_FFFF: False, 0xFFFF_8000_0000_0000: True, (1 << 64) - 1: True}


@pytest.mark.parametrize("field", [
    F.HOST_SYSENTER_ESP, F.HOST_SYSENTER_EIP, F.HOST_FS_BASE, F.HOST_GS_BASE, F.HOST_TR_BASE, F.HOST_GDTR_BASE,
    F.HOST_IDTR_BASE, F.HOST_RIP, F.GUEST_SYSENTER_ESP, F.GUEST_SYSENTER_EIP, F.GUEST_FS_BASE, F.GUEST_GS_BASE,
    F.GUEST_TR_BASE, F.GUEST_GDTR_BASE, F.GUEST_IDTR_BASE])
def test_both_ends_of_both_canonical_halves(field):
    taken(field, BOTH_HALVES, HOST if field.name.startswith("HOST") else GUEST, {})


@pytest.mark.parametrize("host", [False, True], ids=["guest", "host"])
def test_control_registers_bit_by_bit(host):
    """CR0 and CR4 by the MSRs that fix bits, PAE for IA-32e mode, CR3 by the physical-address width."""
    cr0, cr3, cr4 = (F[f"{'HOST' if host else 'GUEST'}_CR{n}"] for n in (0, 3, 4))
    failed, bits = HOST if host else GUEST, range(64)
    fixed, msrs = {0, 5, 31}, PROCESSOR.msrs
    taken(cr0, {VALID[cr0] ^ 1 << n: n < 32 and n not in fixed for n in bits}, failed, {})
    taken(cr3, {1 << n: n < WIDTH for n in bits}, failed, {})
    may = msrs[Msr.VMX_CR4_FIXED1]
    taken(cr4, {VALID[cr4] ^ 1 << n: bool(may >> n & 1) and n not in (5, 13) for n in bits}, failed, {})


@pytest.mark.parametrize("field", [F.HOST_CR3, F.GUEST_CR3])
def test_cr3_may_mask_linear_addresses_where_the_processor_does(field):
    """SDM "Linear-Address Masking": LAM_U57 and LAM_U48 are bits 61 and 62 of CR3."""
    for bit in range(WIDTH, 64):
        values = valid_guest(COMPLETE) | {field: 1 << bit}
        good = bit < COMPLETE.physical_bits or bit in (61, 62)
        assert entry_result(Entry(values, COMPLETE)).entered is good, bit


@pytest.mark.parametrize(("field", "controls", "load", "failed", "free"), [
    (F.HOST_IA32_EFER, F.VM_EXIT_CONTROLS, X.LOAD_EFER, HOST, (0, 11)),
    (F.GUEST_IA32_EFER, F.VM_ENTRY_CONTROLS, E.LOAD_EFER, GUEST, (0, 11)),
    (F.GUEST_DR7, F.VM_ENTRY_CONTROLS, E.LOAD_DEBUG_CONTROLS, GUEST, range(32))])
def test_registers_that_a_control_loads_bit_by_bit(field, controls, load, failed, free):
    """With the control only *free* bits may change in the valid value; without it all may."""
    without = {controls: VALID[controls] & ~int(load)}
    taken(field, {VALID[field] ^ 1 << n: n in free for n in range(64)}, failed, {})
    taken(field, {VALID[field] ^ 1 << n: True for n in range(64)}, failed, without)


def test_every_byte_of_a_pat_in_every_place():
    for kind, place in product(range(256), range(8)):
        good = kind in (0, 1, 4, 5, 6, 7)
        taken(F.HOST_IA32_PAT, {kind << 8 * place: good}, HOST, on_exit(X.LOAD_PAT))
        taken(F.GUEST_IA32_PAT, {kind << 8 * place: good}, GUEST, on_entry(E.LOAD_PAT))


@pytest.mark.parametrize("number", range(4))
def test_a_pdpte_bit_by_bit(number):
    """SDM "PAE Paging": reserved if present are 2:1, 8:5, and all beyond the physical-address width, XD too."""
    field, free = F[f"GUEST_PDPTE{number}"], (0, 3, 4, 9, 10, 11, *range(12, WIDTH))
    taken(field, {1 | 1 << n: n in free for n in range(64)}, PDPTE, PAE)
    taken(field, {1 << n: True for n in range(1, 64)}, PDPTE, PAE)


def test_the_limits_of_descriptor_tables_bit_by_bit():
    for field in (F.GUEST_GDTR_LIMIT, F.GUEST_IDTR_LIMIT):
        taken(field, {1 << n: n < 16 for n in range(32)}, GUEST, {})


# --- What the processor says of itself ---------------------------------------------------------------------------

@pytest.mark.parametrize(("index", "true", "default1"), [
    (Msr.VMX_PINBASED_CTLS, Msr.VMX_TRUE_PINBASED_CTLS, 0x16),
    (Msr.VMX_PROCBASED_CTLS, Msr.VMX_TRUE_PROCBASED_CTLS, 0x401_E172),
    (Msr.VMX_EXIT_CTLS, Msr.VMX_TRUE_EXIT_CTLS, 0x3_6DFF), (Msr.VMX_ENTRY_CTLS, Msr.VMX_TRUE_ENTRY_CTLS, 0x11FF)])
def test_legacy_and_true_capability_msrs_agree(index, true, default1):
    """SDM "VMX Capability Reporting Facility": they differ only in default1 bits that may be 0."""
    must, may = (PROCESSOR.msrs[index] >> shift & 0xFFFF_FFFF for shift in (0, 32))
    true_must, true_may = (PROCESSOR.msrs[true] >> shift & 0xFFFF_FFFF for shift in (0, 32))
    assert must & default1 == default1
    assert not must & ~may
    assert (may, must) == (true_may, true_must | default1)


def test_reserved_bits_of_the_other_capability_msrs_are_zero():
    """SDM "Basic VMX Information", "Miscellaneous Data", "VMCS Enumeration"."""
    msrs, basic = PROCESSOR.msrs, PROCESSOR.basic
    assert not msrs[Msr.VMX_BASIC] & (1 << 31 | 0x7 << 45 | 0x1F << 59)
    assert 0 < basic.region_size <= 4096
    assert basic.memory_type in (0, 6)
    assert not msrs[Msr.VMX_MISC] & 0x8000_3E00
    assert PROCESSOR.misc.saves_lma                 # as it has "unrestricted guest"
    assert not msrs[Msr.VMX_VMCS_ENUM] & ~0x3FE
    assert not msrs[Msr.VMX_CR0_FIXED0] & ~msrs[Msr.VMX_CR0_FIXED1]
    assert not msrs[Msr.VMX_CR4_FIXED0] & ~msrs[Msr.VMX_CR4_FIXED1]
