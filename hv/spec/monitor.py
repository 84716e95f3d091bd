"""The monitor page: triggers in shared memory that the hypervisor looks at; TLFS "Monitored Notifications"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, array, bits, raw, u16, u32, u64

GROUPS = 4
TRIGGERS_PER_GROUP = 32


class HvMonitorTriggerState(Register):
    """HV_MONITOR_TRIGGER_STATE."""

    WIDTH = 32
    group_enable = bits(3, 0)
    monitor_disabled = bits(4)          # the whole page


class HvMonitorTriggerGroup(Layout):
    """HV_MONITOR_TRIGGER_GROUP: a bit for each trigger."""

    pending: u32                        # the sender wants an event
    armed: u32                          # the hypervisor has seen that; who sets a pending bit clears this one


class HvMonitorParameter(Layout):
    """HV_MONITOR_PARAMETER: what is signalled."""

    connection_id: u32                  # of the sender's connections
    flag_number: u16
    reserved: u16


class HvMonitorPage(Layout):
    """HV_MONITOR_PAGE. Trigger t of group g is element 32 * g + t of the lists."""

    trigger_state: u32                  # HvMonitorTriggerState
    reserved: u32
    trigger_groups: array[HvMonitorTriggerGroup, 4]
    reserved1: array["u64", 3]  # noqa: UP037
    next_check_time: array["u32", 128]  # noqa: UP037  when the hypervisor looks again, low bits of its time in 100 ns
    latency: array["u16", 128]  # noqa: UP037  100 ns
    reserved2: array["u64", 32]  # noqa: UP037
    parameters: array[HvMonitorParameter, 128]
    reserved3: raw[1984]
