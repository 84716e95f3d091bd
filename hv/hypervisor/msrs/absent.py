"""Synthetic MSRs that the manual names and that are not here: an access is #GP(0), and this is why."""

from __future__ import annotations

from hv.spec.msrs import SINT_COUNT, Msr

_NESTED = "it reaches the SynIC of the hypervisor below one that is a guest: guests are offered no VMX, so none is one"

ABSENT: dict[int, str] = {
    Msr.HV_SIRBP: "event rings: the layout of their page is in no public document",
    **dict.fromkeys(range(Msr.HV_NESTED_SCONTROL, Msr.HV_NESTED_EOM + 1), _NESTED),
    **dict.fromkeys(range(Msr.HV_NESTED_SINT0, Msr.HV_NESTED_SINT0 + SINT_COUNT), _NESTED),
}
