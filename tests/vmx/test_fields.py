"""Which fields exist: those of controls that a processor does not have are no components of its VMCS."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hv.spec.msrs import Msr
from hv.spec.vmcs import EntryControls, SecondaryControls, VmcsField
from hv.vmx.capabilities import COMPLETE, PROCESSOR
from hv.vmx.fields import existing_fields

F = VmcsField


def test_a_processor_with_everything_has_all_fields_but_those_of_trust_domains():
    assert frozenset(VmcsField) - existing_fields(COMPLETE) == {F.SHARED_EPT_POINTER, F.SEAM_GUEST_KEY_ID}


@pytest.mark.parametrize(("control", "fields"), [
    (SecondaryControls.ENABLE_VPID, {F.VPID}), (SecondaryControls.USE_TSC_SCALING, {F.TSC_MULTIPLIER}),
    (SecondaryControls.ENABLE_PML, {F.PML_ADDRESS, F.PML_INDEX}),
    (SecondaryControls.VMCS_SHADOWING, {F.VMREAD_BITMAP, F.VMWRITE_BITMAP}),
], ids=lambda value: value.name if isinstance(value, SecondaryControls) else "")
def test_a_control_that_cannot_be_1_takes_its_fields_away(control, fields):
    """SDM "VMCS Data": "exists only on processors that support the 1-setting of"."""
    without = replace(COMPLETE, secondary=COMPLETE.secondary & ~control)
    assert existing_fields(COMPLETE) - existing_fields(without) == fields


def test_this_processor_has_the_fields_of_what_it_offers():
    assert F.GUEST_IA32_EFER in existing_fields(PROCESSOR)
    missing = frozenset(VmcsField) - existing_fields(PROCESSOR)
    assert {F.GUEST_S_CET, F.HOST_IA32_PERF_GLOBAL_CTRL, F.TERTIARY_PROC_CONTROLS, F.GUEST_IA32_FRED_SSP3,
            F.VMREAD_BITMAP} <= missing


def test_the_highest_index_is_that_of_a_field_that_exists():
    """SDM "VMCS Enumeration": bits 9:1."""
    for processor in (PROCESSOR, COMPLETE):
        highest = max(field.index for field in existing_fields(processor))
        assert processor.msrs[Msr.VMX_VMCS_ENUM] == highest << 1
    fewer = replace(COMPLETE, entry=COMPLETE.entry & ~EntryControls.LOAD_FRED)
    assert fewer.msrs[Msr.VMX_VMCS_ENUM] < COMPLETE.msrs[Msr.VMX_VMCS_ENUM]
