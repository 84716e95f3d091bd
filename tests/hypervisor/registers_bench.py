"""A child with one real VP, whose registers root gets and sets by hypercall."""

from __future__ import annotations

from hv.hypervisor.hypercalls.door import hypercall
from hv.platform import Machine
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.registers import RegisterName, VpRegistersInput
from hv.spec.x86 import PAGE_SIZE


class Bench:
    """*vp* is the VP; *winhv* and *memory* are root's."""

    def __init__(self, pages: int = 8) -> None:
        self.machine = Machine(4)
        self.winhv, self.memory = self.machine.root.winhv, self.machine.root.memory
        self.id = self.winhv.create_partition()
        self.winhv.initialize_partition(self.id)
        self.pages = self.memory.allocate(pages)
        self.winhv.map_gpa_pages(self.id, 0, self.pages)
        self.winhv.create_vp(self.id, 0)
        self.partition = self.machine.hypervisor.partitions[self.id]
        self.vp = self.partition.vps[0]

    def get(self, name: int) -> bytes:
        return self.winhv.get_vp_registers(self.id, 0, [name])[0]

    def number(self, name: int) -> int:
        return int.from_bytes(self.get(name), "little")

    def set(self, name: int, value: int | bytes) -> None:
        self.winhv.set_vp_registers(self.id, 0, {name: value})

    def list(self, *names: int) -> tuple[HvStatus, int]:
        """(status, reps completed) of one call for all *names*."""
        hypervisor, root = self.machine.hypervisor, self.machine.hypervisor.root
        page = self.memory.allocate()[0] * PAGE_SIZE
        data = VpRegistersInput(partition_id=self.id).pack() + b"".join(RegisterName(name=n).pack() for n in names)
        self.memory.write(page, data)
        control = HypercallControl(call_code=HypercallCode.GET_VP_REGISTERS, rep_count=len(names))
        output = self.memory.allocate()[0] * PAGE_SIZE
        result = HypercallResult(hypercall(hypervisor, root.vps[0], control.raw, page, output))
        return HvStatus(result.status), result.reps_complete

    def close(self) -> None:
        self.machine.close()


