"""All timers that the hypervisor has for one VP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.timers.stimer import SyntheticTimer
from hv.hypervisor.timers.unhalted import UnhaltedTimer
from hv.spec.msrs import STIMER_COUNT
from hv.spec.vp_state import SyntheticTimersState

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor


class SyntheticTimers:
    """The synthetic timers of *vp*, by number; `unhalted` is the one that counts its work."""

    def __init__(self, vp: VirtualProcessor) -> None:
        self.timers = tuple(SyntheticTimer(vp, index) for index in range(STIMER_COUNT))
        self.unhalted = UnhaltedTimer(vp)

    def __getitem__(self, index: int) -> SyntheticTimer:
        return self.timers[index]

    def reset(self) -> None:
        """Configurations and counts are 0."""
        for timer in self.timers:
            timer.set_config(0)
            timer.set_count(0)
        self.unhalted.reset()

    def pause(self) -> None:
        """The partition's time stands still, and its VPs: the timer of their work needs no word."""
        for timer in self.timers:
            timer.pause()

    def resume(self) -> None:
        """The partition's time goes on."""
        for timer in self.timers:
            timer.resume()

    def save(self) -> SyntheticTimersState:
        """HV_SYNTHETIC_TIMERS_STATE."""
        return SyntheticTimersState(timers=tuple(timer.save() for timer in self.timers))

    def restore(self, state: SyntheticTimersState) -> None:
        """Take over what `save` gave."""
        saved: Any = state.timers
        for timer in self.timers:
            timer.restore(saved[timer.index])

    def inspect(self) -> dict[str, Any]:
        """Plain data: `inspect vm/1/timers/stimer0` of the REPL."""
        return {**{f"stimer{timer.index}": timer.inspect() for timer in self.timers},
                "unhalted": self.unhalted.inspect()}
