"""A child in machine code whose VPs obey scripts (`script_guest.py`), as the fuzz drives it from root."""

from __future__ import annotations

from hv.hypervisor.partitions.partition import PartitionState
from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.partition import HvPartitionProperty
from tests.hypervisor.script_guest import (
    LENGTH,
    MEMORY_MIB,
    POSITION,
    SCRIPTS,
    SIZE,
    STRIDE,
    VPS,
    Command,
    image,
    notes_of,
    packed,
)


class Attacker:
    """A child with every privilege of root's. Its scripts are as many as it has VPs; there are none at first."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.worker = machine.create_vm(name, image(), MEMORY_MIB, vps=VPS).worker
        self.id = self.worker.partition_id
        self._hypervisor = machine.hypervisor
        self._hypervisor.partitions[self.id].set_privileges(self._hypervisor.root.privileges)
        self.scripts: list[list[Command]] = [[]] * VPS

    @property
    def alive(self) -> bool:
        """It can still be asked: its partition stands, and its VP has not ended."""
        partition = self._hypervisor.partitions.get(self.id)
        return (partition is not None and partition.state is PartitionState.ACTIVE and self.worker.ended is None
                and 0 in partition.vps and not partition.vps[0].stopped_because)

    def obey(self, scripts: list[list[Command]]) -> None:
        """Its VPs begin with these scripts as soon as they run."""
        self.scripts = scripts
        for vp, script in enumerate(scripts):
            for gpa, data in packed(script, vp).items():
                self.worker.write(gpa, data)

    @property
    def has_obeyed(self) -> bool:
        """All scripts are done."""
        return all(self._position(vp) >= len(script) for vp, script in enumerate(self.scripts))

    @property
    def commands_done(self) -> int:
        """Of the scripts; one that writes over its own position counts as done."""
        return sum(min(self._position(vp), len(script)) for vp, script in enumerate(self.scripts))

    @property
    def commands_given(self) -> int:
        """In all scripts."""
        return sum(map(len, self.scripts))

    def leave(self) -> None:
        """Its worker lets go of it, as if it had crashed: the partition is root's to take down."""
        self.worker.vid.unregister(self.id)
        self.worker.end("destroyed")

    def _position(self, vp: int) -> int:
        return int.from_bytes(self.worker.read(SCRIPTS + vp * STRIDE + POSITION, 8), "little")

    def notes(self, vp: int, count: int) -> list[int]:
        """What VP *vp* noted for the first *count* commands of its script."""
        return notes_of(self.worker.read(SCRIPTS + vp * STRIDE, SIZE * count))

    def revive(self) -> bool:
        """A VP is lost: root lets it all begin afresh; False when the hypervisor refuses that."""
        for vp in range(VPS):
            self.worker.write(SCRIPTS + vp * STRIDE + LENGTH, bytes(16))
        winhv = self.machine.root.winhv
        try:
            for code in (HvPartitionProperty.SUSPEND, HvPartitionProperty.TIME_FREEZE):
                winhv.set_partition_property(self.id, code, 0)
            self.worker.load(image())
            for vp in range(VPS):
                for base in (0xFEE0_0000, 0xFEE0_0800 | (vp == 0) << 8):
                    winhv.set_vp_registers(self.id, vp, {N.APIC_BASE: base})
                winhv.set_vp_registers(self.id, vp, {N.INTERCEPT_SUSPEND: 0, N.EXPLICIT_SUSPEND: 0})
        except HvError:
            return False
        return True
