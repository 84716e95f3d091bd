"""Makes the VPs: one engine per partition, each VP a context on it. Root's VP needs none.

`ProcessorFactory` is the hypervisor's `vp_factory`. An engine is made with the first VP of its partition and goes when
the partition is finalized.
"""

from __future__ import annotations

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partition import Partition
from hv.hypervisor.root_vp import RootVirtualProcessor
from hv.hypervisor.vp import VirtualProcessor
from hv.hypervisor.vp_vmcs import VpVmcs
from hv.machine.engine import Engine
from hv.machine.lp import LogicalProcessor
from hv.machine.mmio import MmioBus
from hv.vmx.second_level import SecondLevel
from hv.vmx.vcpu import Vcpu


class ProcessorFactory:
    """Call it with (partition, VP index)."""

    def __init__(self, hypervisor: Hypervisor, processor: LogicalProcessor, mmio: MmioBus) -> None:
        self.hypervisor, self.memory = hypervisor, hypervisor.memory
        self.processor, self.mmio = processor, mmio
        self._engines: dict[int, tuple[Engine, SecondLevel]] = {}
        self._structures: dict[int, list[VpVmcs]] = {}

    def __call__(self, partition: Partition, index: int) -> VirtualProcessor | RootVirtualProcessor:
        if partition.is_root:
            return RootVirtualProcessor(partition, index, lambda vp: self.hypervisor.on_wake(vp))
        engine, second_level = self._engine_of(partition)
        vmcs = VpVmcs(self.hypervisor.operation, partition.vp_pages[index].vmcs)
        self._structures.setdefault(partition.id, []).append(vmcs)
        vcpu = Vcpu(engine, self.processor.clock, second_level, vmcs.fields)
        vcpu.external_interrupt, vcpu.interrupt_waits = self.processor.acknowledge, self.processor.interrupt_waits
        return VirtualProcessor(self.hypervisor, partition, index, vcpu, vmcs)

    def _engine_of(self, partition: Partition) -> tuple[Engine, SecondLevel]:
        if partition.id not in self._engines:
            tables = partition.space.tables
            assert tables is not None, "a child has second-level tables"
            engine = Engine(self.memory, self.processor.counter)
            second_level = SecondLevel(tables, self.memory, self.mmio)
            engine.second_level = second_level.answer

            def invept(changed: frozenset[int]) -> None:
                second_level.invept()
                engine.invept()

            tables.on_invept = invept
            self.mmio.attach(engine)
            partition.on_teardown.append(self._forget)
            self._engines[partition.id] = engine, second_level
        return self._engines[partition.id]

    def _forget(self, partition: Partition) -> None:
        found = self._engines.pop(partition.id, None)
        if found is not None:
            if partition.space.tables is not None:
                partition.space.tables.on_invept = lambda changed: None
            for vmcs in self._structures.pop(partition.id, ()):
                vmcs.clear()                    # while there are registers to be written back
            self.mmio.detach(found[0])
            found[0].close()

    def close(self) -> None:
        """Give every engine back to the host."""
        for engine, _ in self._engines.values():
            engine.close()
        self._engines.clear()
