"""The capability MSRs: consistent among themselves, and with what is said to be left out."""

from __future__ import annotations

import pytest

from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    ENTRY_DEFAULT1,
    EXIT_DEFAULT1,
    PIN_DEFAULT1,
    PRIMARY_DEFAULT1,
    AllowedSettings,
    SecondaryControls,
    VmcsField,
)
from hv.vmx.capabilities import COMPLETE, LEFT_OUT, PROCESSOR, Capabilities
from tests.proves import proves

LEGACY_AND_TRUE = [
    (Msr.VMX_PINBASED_CTLS, Msr.VMX_TRUE_PINBASED_CTLS, PIN_DEFAULT1),
    (Msr.VMX_PROCBASED_CTLS, Msr.VMX_TRUE_PROCBASED_CTLS, PRIMARY_DEFAULT1),
    (Msr.VMX_EXIT_CTLS, Msr.VMX_TRUE_EXIT_CTLS, EXIT_DEFAULT1),
    (Msr.VMX_ENTRY_CTLS, Msr.VMX_TRUE_ENTRY_CTLS, ENTRY_DEFAULT1),
]
PROCESSORS = pytest.mark.parametrize("processor", [PROCESSOR, COMPLETE], ids=["modelled", "complete"])


@proves("capability/VmxBasic.true_controls")
@PROCESSORS
@pytest.mark.parametrize(("legacy", "true", "default1"), LEGACY_AND_TRUE)
def test_the_true_msr_offers_the_same_and_releases_default1_bits(processor: Capabilities, legacy, true, default1):
    """SDM appendix "VMX Capability Reporting Facility"."""
    old, new = AllowedSettings(processor.msrs[legacy]), AllowedSettings(processor.msrs[true])
    assert old.allowed_1 == new.allowed_1
    assert old.allowed_0 == new.allowed_0 | default1
    assert not new.allowed_0 & ~new.allowed_1


@PROCESSORS
def test_a_capability_msr_is_there_exactly_when_its_control_is(processor: Capabilities):
    assert (Msr.VMX_PROCBASED_CTLS3 in processor.msrs) == bool(processor.primary >> 17 & 1)
    assert (Msr.VMX_EXIT_CTLS2 in processor.msrs) == bool(processor.exit >> 31 & 1)
    assert Msr.VMX_EPT_VPID_CAP in processor.msrs
    assert Msr.VMX_VMFUNC in processor.msrs


def test_what_is_left_out_is_refused_and_has_a_reason():
    allowed = PROCESSOR.settings(VmcsField.SECONDARY_PROC_CONTROLS)
    assert not allowed.allows(SecondaryControls.ENCLS_EXITING)
    assert allowed.allows(SecondaryControls.ENABLE_EPT)
    assert all(reason for reasons in LEFT_OUT.values() for reason in reasons.values())


def test_an_address_is_physical_when_it_is_aligned_and_not_too_wide():
    assert PROCESSOR.is_physical(0x1000)
    assert not PROCESSOR.is_physical(0x1008)
    assert PROCESSOR.is_physical(0x1040, 64)
    assert not PROCESSOR.is_physical(1 << 46)
    assert COMPLETE.is_physical(1 << 46)
