"""Partitions that no worker of ours stands behind: children that a root of machine code has made by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hv.debug.errors import DebugError
from hv.hypervisor.partitions.partition import Partition, PartitionState


@dataclass(frozen=True, slots=True)
class Child:
    """One of them, looked at like a VM; *root* is the program that made it."""

    partition_id: int
    machine: Any = field(compare=False, repr=False)
    root: Any = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """`child2`: only its number is known."""
        return f"child{self.partition_id}"

    @property
    def ended(self) -> str | None:
        """None while it may run: until its partition is deleted, or root's program ends."""
        if self.partition_id not in self.machine.hypervisor.partitions:
            return "destroyed"
        ended: str | None = self.root.ended
        return ended

    @property
    def why(self) -> str:
        """Nothing is known beside that."""
        return ""

    @property
    def serial(self) -> str:
        """Its ports are its parent's affair, who prints what it likes."""
        return ""

    @property
    def partition(self) -> Partition:
        """The hypervisor's side of it; DebugError when it was deleted."""
        found: Partition | None = self.machine.hypervisor.partitions.get(self.partition_id)
        if found is None:
            raise DebugError(f"partition {self.partition_id} is gone", "`partitions` shows what is there")
        return found


def children(machine: Any, vms: list[Any]) -> list[Child]:
    """The partitions with VPs of machine code that are none of *vms*, in order of their ids."""
    known = {vm.partition_id for vm in vms}
    return [Child(number, machine, vms[0]) for number, partition in sorted(machine.hypervisor.partitions.items())
            if number not in known and partition.runs_code and partition.vps
            and partition.state is PartitionState.ACTIVE]
