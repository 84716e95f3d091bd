"""Start a VP with all its registers given, instead of INIT, SIPI and a walk up from real mode.

TLFS "HvCallStartVirtualProcessor", "HV_INITIAL_VP_CONTEXT". The context goes through the rules of VM entry before
anything is written, so a VP that was started is one that enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts.shown import segment_of
from hv.hypervisor.vps.guest_registers import CR0_OWNED, CR4_OWNED
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.vps import HvInitialVpContext
from hv.spec.vmcs import EntryControls, VmcsField
from hv.spec.x86 import Efer
from hv.trace.events import VpStarted
from hv.vmx.checks import RULES, Group, entry_result

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_RULES = tuple(rule for rule in RULES if rule.group is Group.GUEST_STATE)
_F = VmcsField
_LOAD_PAT, _IA32E, _LMA = EntryControls.LOAD_PAT.value, EntryControls.IA32E_MODE_GUEST.value, Efer.LMA.value
_WHOLE = {"rip": _F.GUEST_RIP, "rsp": _F.GUEST_RSP, "rflags": _F.GUEST_RFLAGS, "cr3": _F.GUEST_CR3,
          "efer": _F.GUEST_IA32_EFER, "pat": _F.GUEST_IA32_PAT}
_SEGMENTS, _TABLES = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr"), ("idtr", "gdtr")
_PARTS = {name: [VmcsField[f"GUEST_{name.upper()}_{part}"] for part in ("SELECTOR", "BASE", "LIMIT", "ACCESS_RIGHTS")]
          for name in _SEGMENTS}
_PARTS |= {name: [VmcsField[f"GUEST_{name.upper()}_{part}"] for part in ("BASE", "LIMIT")] for name in _TABLES}


def start(vp: VirtualProcessor, context: HvInitialVpContext) -> None:
    """*vp*, which waits to be started, begins with *context*: as far as its parent lets it run at all.

    INVALID_VP_STATE when it was started before; INVALID_REGISTER_VALUE, and nothing done, for what VM entry refuses.
    """
    if not vp.wait_for_sipi or vp.stopped_because:
        raise HypercallError(HvStatus.INVALID_VP_STATE, f"vp {vp.index} does not wait to be started")
    fields = _guest_state(context)
    _check(vp, context, fields)
    with vp.vmcs.current():
        for field, value in fields.items():
            vp.vmcs.write(field, value)
        vp.guest_regs.cr0, vp.guest_regs.cr4 = context.cr0, context.cr4
    vp.wait_for_sipi = vp.halted = False
    vp.kick()
    if vp.trace.listening:
        vp.trace.emit(VpStarted(vp.partition.id, vp.index, context.rip))


def _guest_state(context: HvInitialVpContext) -> dict[VmcsField, int]:
    """The fields of the VMCS that *context* is about, but for CR0 and CR4."""
    fields = {field: int(getattr(context, name)) for name, field in _WHOLE.items()}
    for name in _SEGMENTS:
        fields.update(zip(_PARTS[name], segment_of(getattr(context, name)), strict=True))
    for name in _TABLES:
        table = getattr(context, name)
        fields.update(zip(_PARTS[name], (table.base, table.limit), strict=True))
    return fields


def _check(vp: VirtualProcessor, context: HvInitialVpContext, fields: dict[VmcsField, int]) -> None:
    """INVALID_REGISTER_VALUE for what no VP can be, or this one cannot: VMX is not offered, so no CR4 has VMXE."""
    if context.cr4 & CR4_OWNED:
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"CR4 {context.cr4:#x} has VMXE")
    entry = vp.vcpu.entry()
    controls = entry.entry & ~_IA32E | _LOAD_PAT | (_IA32E if context.efer & _LMA else 0)
    failure = entry_result(entry.with_values({
        **fields, _F.GUEST_CR0: context.cr0 | CR0_OWNED, _F.GUEST_CR4: context.cr4 | CR4_OWNED,
        _F.VM_ENTRY_CONTROLS: controls}), _RULES).failure
    if failure is not None:
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, str(failure))
