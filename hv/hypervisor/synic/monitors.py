"""Monitor ports: a page that two partitions share, and the triggers in it that the hypervisor turns into events.

TLFS "Monitored Notifications". A sender that has something to say often sets a bit in memory, which costs nothing; the
hypervisor looks at the bits every now and then, and signals each event on the sender's behalf when its bit has been
set for as long as its latency. The page is an overlay in both partitions, and is the port's.

It looks at the lowest latency of the enabled groups, within limits. While nobody runs who could set a bit it does not
look at all (`Monitors`), or an idle machine would never rest.
# Simplified: a bit that a device sets meanwhile is seen when the next VP is woken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.gpa_space import READ_WRITE, GpaSpace, Overlay
from hv.hypervisor.synic.ports import PORT_CLASSES, Port
from hv.machine.clock import TICKS_PER_100NS, Timer, VirtualClock
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.monitor import GROUPS, TRIGGERS_PER_GROUP, HvMonitorPage, HvMonitorParameter, HvMonitorTriggerState
from hv.spec.synic import HvMonitorPortInfo, HvPortInfo, PortType
from hv.spec.x86 import PAGE_SIZE
from hv.trace.events import MonitorTriggered

if TYPE_CHECKING:
    from hv.hypervisor.hypervisor import Hypervisor
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.synic.connections import Connection

SHORTEST_POLL, LONGEST_POLL = 500, 10_000       # 100 ns
_GROUP_SIZE = 8
_GROUPS_AT, _TIMES_AT = HvMonitorPage.offset_of("trigger_groups"), HvMonitorPage.offset_of("next_check_time")
_LATENCY_AT, _PARAMETERS_AT = HvMonitorPage.offset_of("latency"), HvMonitorPage.offset_of("parameters")
_SIGNAL_EVENTS = int(HvPrivilege.SIGNAL_EVENTS)


class MonitorPort(Port):
    """A port whose connection shares a monitor page with it."""

    kind = PortType.MONITOR

    def __init__(self, port_id: int, owner: Partition, connector: Partition, info: HvPortInfo) -> None:
        super().__init__(port_id, owner, connector, info)
        described = HvMonitorPortInfo.parse(info.pack())
        if described.reserved:
            raise HypercallError(HvStatus.INVALID_PARAMETER, "a reserved field of the monitor port is not zero")
        self.gpa_page = _checked_page(owner.space, described.monitor_address)
        self.page = 0                               # spa
        self._shown: dict[int, int] = {}            # connection id -> page of the sender's space
        self._poll: Poll | None = None

    @property
    def monitor_address(self) -> int:
        """Where the page stands in the owner's space, gpa."""
        return self.gpa_page << 12

    @property
    def _overlay(self) -> Overlay:
        return Overlay(f"monitor page of port {self.port_id:#x}", self.page, READ_WRITE)

    def open(self) -> None:
        """It pays for the page too."""
        super().open()
        try:
            self.page = self.owner.pool.allocate()
            try:
                self.owner.space.cover(self.gpa_page, self._overlay)
            except HypercallError:
                self.owner.pool.free(self.page)
                raise
        except HypercallError:
            super().close()
            raise

    def close(self) -> None:
        """The page is gone from both partitions."""
        super().close()
        for connection_id in sorted(self._shown):
            self._hide(connection_id)
        self.owner.space.uncover(self.gpa_page, self._overlay)
        self.owner.pool.free(self.page)

    def connect(self, connection: Connection) -> None:
        """The page stands in the sender's space too, and is looked at from now on.

        INVALID_ALIGNMENT for a gpa inside a page; INVALID_PARAMETER; INSUFFICIENT_MEMORY.
        """
        info, space = connection.info, connection.owner.space
        if info.trigger_value or info.trigger_flags:
            raise HypercallError(HvStatus.INVALID_PARAMETER, "a monitor connection has no doorbell")
        page = _checked_page(space, info.gpa)
        space.cover(page, self._overlay)
        self._shown[connection.connection_id] = page
        if self._poll is None:
            self._poll = Poll(self.page, connection.owner)

    def disconnect(self, connection: Connection) -> None:
        """The sender has the page no more."""
        if connection.connection_id in self._shown:
            self._hide(connection.connection_id)

    def _hide(self, connection_id: int) -> None:
        self.connector.space.uncover(self._shown.pop(connection_id), self._overlay)
        if self._poll is not None and not self._shown:
            self._poll.stop()
            self._poll = None

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return super().inspect() | {"monitor_address": self.monitor_address, "shown": dict(sorted(self._shown.items()))}


PORT_CLASSES[MonitorPort.kind] = MonitorPort


def _checked_page(space: GpaSpace, gpa: int) -> int:
    """The page of *gpa*; INVALID_ALIGNMENT, INVALID_PARAMETER outside the space."""
    if gpa % PAGE_SIZE:
        raise HypercallError(HvStatus.INVALID_ALIGNMENT, f"monitor page at {gpa:#x}")
    if gpa >> 12 >= space.page_limit:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"monitor page at {gpa:#x}, outside the address space")
    return gpa >> 12


class Poll:
    """Looks at the triggers of the page at *spa*, for *sender*."""

    def __init__(self, spa: int, sender: Partition) -> None:
        self.spa, self.sender, self.memory = spa, sender, sender.memory
        self._checks: dict[int, int] = {}           # trigger -> time from which it is due
        self._timer: Timer | None = None
        self.resume()

    @property
    def clock(self) -> VirtualClock:
        """The sender's, which is another one once its first VP has a processor of its own."""
        return self.sender.clock

    def resume(self) -> None:
        """Look again after the usual time."""
        self._at(self.clock.time_100ns + self._interval(self._enabled()))

    def stop(self) -> None:
        """Look no more."""
        self.clock.cancel(self._timer)
        self._timer = None
        self.sender.monitors.forget(self)

    def _at(self, time_100ns: int) -> None:
        self._timer = self.clock.at(time_100ns * TICKS_PER_100NS, self.look)

    def look(self) -> None:
        """See what is pending, signal what has been pending for long enough, and say when to look again."""
        now, groups = self.clock.time_100ns, self._enabled()
        for group in groups:
            self._look_at(group, now)
        self._checks = {each: due for each, due in self._checks.items() if each // TRIGGERS_PER_GROUP in groups}
        if not self._checks and not any(vp.runnable for vp in self.sender.vps.values()):
            self.sender.monitors.rest(self)
        else:
            self._at(min([now + self._interval(groups), *(max(due, now + 1) for due in self._checks.values())]))

    def _look_at(self, group: int, now: int) -> None:
        at = self.spa + _GROUPS_AT + group * _GROUP_SIZE
        pending, armed = self.memory.read_u32(at), self.memory.read_u32(at + 4)
        fire = 0
        for n in range(TRIGGERS_PER_GROUP):
            trigger, bit = group * TRIGGERS_PER_GROUP + n, 1 << n
            if not pending & bit:
                self._checks.pop(trigger, None)
            elif not armed & bit:
                self._arm(trigger, now)
                armed |= bit
            elif now >= self._checks.get(trigger, 0):
                self._checks.pop(trigger, None)
                fire |= bit
        self.memory.write_u32(at, pending & ~fire)
        self.memory.write_u32(at + 4, armed & ~fire)
        for n in range(TRIGGERS_PER_GROUP):         # once the bits are clear: who sets one now is heard
            if fire >> n & 1:
                self._signal(group * TRIGGERS_PER_GROUP + n)

    def _arm(self, trigger: int, now: int) -> None:
        self._checks[trigger] = now + self._latency(trigger)
        self.memory.write_u32(self.spa + _TIMES_AT + 4 * trigger, self._checks[trigger] & 0xFFFF_FFFF)

    def _signal(self, trigger: int) -> None:
        """HvSignalEvent as the sender would call it; whatever is wrong with it, nobody is told."""
        at = self.spa + _PARAMETERS_AT + trigger * HvMonitorParameter.SIZE
        parameter = HvMonitorParameter.parse(self.memory.read(at, HvMonitorParameter.SIZE))
        if self.sender.trace.listening:
            self.sender.trace.emit(MonitorTriggered(trigger, parameter.connection_id, parameter.flag_number))
        connection = self.sender.connections.get(parameter.connection_id)
        if connection is None or parameter.reserved or not self.sender.has(_SIGNAL_EVENTS):
            return
        try:
            connection.event_port().signal(parameter.flag_number)
        except HypercallError:
            return

    def _enabled(self) -> list[int]:
        state = HvMonitorTriggerState(self.memory.read_u32(self.spa))
        return [] if state.monitor_disabled else [n for n in range(GROUPS) if state.group_enable >> n & 1]

    def _latency(self, trigger: int) -> int:
        return int.from_bytes(self.memory.read(self.spa + _LATENCY_AT + 2 * trigger, 2), "little")

    def _interval(self, groups: list[int]) -> int:
        """The lowest latency that is set in *groups*, within the limits."""
        size = 2 * TRIGGERS_PER_GROUP
        words = b"".join(self.memory.read(self.spa + _LATENCY_AT + size * group, size) for group in groups)
        lowest = min((latency for latency in memoryview(words).cast("H") if latency), default=LONGEST_POLL)
        return min(max(lowest, SHORTEST_POLL), LONGEST_POLL)


class Monitors:
    """The polls that rest, since no VP of their senders can run; whoever is woken next ends their rest."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self._resting: list[Poll] = []
        self._on_wake = hypervisor.on_wake

    def rest(self, poll: Poll) -> None:
        """*poll* looks no more until somebody is woken."""
        if not self._resting:               # a wake-up is told to us only while it matters
            self._on_wake, self.hypervisor.on_wake = self.hypervisor.on_wake, self._woken
        self._resting.append(poll)

    def forget(self, poll: Poll) -> None:
        """*poll* has stopped."""
        if poll in self._resting:
            self._resting.remove(poll)
            if not self._resting and self.hypervisor.on_wake == self._woken:
                self.hypervisor.on_wake = self._on_wake

    def _woken(self, vp: Any) -> None:
        self.hypervisor.on_wake = self._on_wake
        resting, self._resting = self._resting, []
        for poll in resting:
            poll.resume()
        self.hypervisor.on_wake(vp)
