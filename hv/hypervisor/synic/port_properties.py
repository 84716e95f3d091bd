"""The properties of a port; TLFS "Port Properties".

Of the codes that are known, those without a meaning here (ring buffers, durations, intercepts of signals) are unknown.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.synic.monitors import MonitorPort
from hv.hypervisor.synic.ports import EventPort, MessagePort, Port, SintPort
from hv.spec.hv_status import HvStatus
from hv.spec.partition import ANY_VP
from hv.spec.synic import HvPortProperty

P = HvPortProperty


def get_property(port: Port, code: int) -> int:
    """The value of property *code*; UNKNOWN_PROPERTY, also for one that a port of this type does not have."""
    kind, attribute = _PROPERTIES.get(code, (Port, ""))
    if not attribute or not isinstance(port, kind):
        raise HypercallError(HvStatus.UNKNOWN_PROPERTY, f"port property {code:#x}")
    return int(getattr(port, attribute))


def set_property(port: Port, code: int, value: int) -> None:
    """UNKNOWN_PROPERTY; OPERATION_DENIED for one that only counts; INVALID_VP_INDEX."""
    get_property(port, code)
    setter = _SETTERS.get(code)
    if setter is None or not isinstance(port, SintPort):
        raise HypercallError(HvStatus.OPERATION_DENIED, f"port property {code} cannot be set")
    port.check_vp(value)
    setter(port, value)


def _set_target_vp(port: SintPort, value: int) -> None:
    """What waits in a queue stays where it is."""
    port.target_vp = value


def _set_preferred_vp(port: SintPort, value: int) -> None:
    if port.target_vp != ANY_VP:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"port {port.port_id:#x} has vp {port.target_vp} for target")
    port.preferred_vp = value


_PROPERTIES: dict[int, tuple[type[Port], str]] = {
    P.POST_COUNT: (MessagePort, "sent"), P.SIGNAL_COUNT: (EventPort, "sent"), P.TARGET_VP: (SintPort, "target_vp"),
    P.PREFERRED_TARGET_VP: (SintPort, "preferred_vp"), P.MONITOR_ADDRESS: (MonitorPort, "monitor_address")}
_SETTERS: dict[int, Callable[[SintPort, int], None]] = {
    P.TARGET_VP: _set_target_vp, P.PREFERRED_TARGET_VP: _set_preferred_vp}
