"""Time for devices without a machine: a clock that a test turns, and a wire that it looks at."""

import heapq


class Alarm:
    """As `hv.root.timers.Alarm`."""

    def __init__(self, due, callback):
        self.due, self.callback = due, callback


class Clock:
    """`RootTimers`, by hand: `advance` calls what is due on the way."""

    def __init__(self):
        self.tsc = self.set = self.called = 0
        self._alarms = []

    def now(self):
        return self.tsc

    def at(self, tsc, callback):
        alarm = Alarm(tsc, callback)
        self.set += 1
        heapq.heappush(self._alarms, (tsc, self.set, alarm))
        return alarm

    def cancel(self, alarm):
        if alarm is not None:
            alarm.due = None

    @property
    def pending(self):
        """How many alarms are set."""
        return sum(alarm.due is not None for _, _, alarm in self._alarms)

    def advance(self, ticks):
        """Let *ticks* of time pass."""
        end = self.tsc + ticks
        while self._alarms and self._alarms[0][0] <= end:
            due, _, alarm = heapq.heappop(self._alarms)
            if alarm.due is not None:
                self.tsc = max(self.tsc, due)
                alarm.due = None
                self.called += 1
                alarm.callback()
        self.tsc = end


class Wire:
    """An interrupt line: its level, and how often it rose."""

    def __init__(self):
        self.level, self.rises = False, 0

    def __call__(self, asserted):
        self.rises += asserted and not self.level
        self.level = asserted
