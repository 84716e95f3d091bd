"""Where somebody who runs a machine wants to come to, and how a VM came to its end: in words."""

from __future__ import annotations

from typing import Any, NamedTuple

from hv.debug.session import Breakpoint
from hv.hypervisor.vps.vp import VirtualProcessor


class Target(NamedTuple):
    """Where the VP looked at is to come, with a stack no deeper than *least_rsp*."""

    point: Breakpoint
    least_rsp: int = 0


def ending(vm: Any) -> str:
    """How *vm* ended, in words."""
    return f"{vm.name} {vm.ended}" + (f" ({vm.why})" if vm.why else "")


def runnable(vp: VirtualProcessor | None) -> bool:
    """The VP is there, and may execute something now."""
    return vp is not None and vp.runnable
