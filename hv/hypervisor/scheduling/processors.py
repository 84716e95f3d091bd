"""Makes the VPs: one engine per partition, each VP a context on it. A root whose program is Python needs none.

`ProcessorFactory` is the hypervisor's `vp_factory`. An engine is made with the first VP of its partition and goes when
the partition is finalized.
"""

from __future__ import annotations

from functools import partial

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.vps.root_vp import RootVirtualProcessor
from hv.hypervisor.vps.vmcs import VpVmcs
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.engine import Engine
from hv.machine.lp import LogicalProcessor
from hv.machine.mmio import MmioBus
from hv.spec.ept import InveptType
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.vmx.root_operation.operation import VmxOperation
from hv.vmx.translation.cached import CachedMappings
from hv.vmx.translation.second_level import SecondLevel
from hv.vmx.vcpu import Vcpu


class ProcessorFactory:
    """Call it with (partition, VP index)."""

    def __init__(self, hypervisor: Hypervisor, processor: LogicalProcessor, mmio: MmioBus) -> None:
        self.hypervisor, self.memory = hypervisor, hypervisor.memory
        self.processor, self.mmio = processor, mmio
        self._engines: dict[int, tuple[Engine, CachedMappings]] = {}
        self._last_vpid = 0
        self._past_exits = 0                # of VPs that are gone
        self.keeps_engines = False          # somebody may return to when they were there
        self._kept: list[Engine] = []
        hypervisor.on_vp_deleted = self._drop

    def __call__(self, partition: Partition, index: int) -> VirtualProcessor | RootVirtualProcessor:
        if not partition.runs_code:
            return RootVirtualProcessor(partition, index, lambda vp: self.hypervisor.on_wake(vp))
        engine, cached = self._engine_of(partition)
        processor, operation = self.processor_of(partition)
        vmcs = VpVmcs(operation, partition.vp_pages[index].vmcs)
        vcpu = Vcpu(engine, processor.clock, SecondLevel(cached), vmcs.fields)
        vcpu.external_interrupt, vcpu.interrupt_waits = processor.acknowledge, processor.interrupt_waits
        assert partition.space.tables is not None, "machine code runs by second-level tables"
        write, read = vcpu.vmcs.write, vcpu.vmcs.read
        write(VmcsField.EPT_POINTER, partition.space.tables.eptp.raw)
        self._last_vpid = self._last_vpid % 0xFFFF + 1          # 0 is the host's
        write(VmcsField.VPID, self._last_vpid)
        write(VmcsField.SECONDARY_PROC_CONTROLS,
              read(VmcsField.SECONDARY_PROC_CONTROLS) | SecondaryControls.ENABLE_VPID)
        return VirtualProcessor(self.hypervisor, partition, index, vcpu, vmcs)

    def processor_of(self, partition: Partition) -> tuple[LogicalProcessor, VmxOperation]:
        """Where the VPs of *partition* run: the one processor of the machine."""
        return self.processor, self.hypervisor.operation

    def new_engine(self, partition: Partition) -> Engine:
        """An engine for the VPs of *partition*."""
        return Engine(self.memory, self.processor.counter)

    def _engine_of(self, partition: Partition) -> tuple[Engine, CachedMappings]:
        if partition.id not in self._engines:
            tables = partition.space.tables
            assert tables is not None, "machine code runs by second-level tables"
            engine = self.new_engine(partition)
            cached = CachedMappings(self.memory, self.mmio, engine)
            tables.on_invept = partial(cached.invept, InveptType.SINGLE_CONTEXT, tables.eptp.raw)
            self.mmio.attach(engine)
            partition.on_teardown.append(self._forget)
            self._engines[partition.id] = engine, cached
        return self._engines[partition.id]

    def _drop(self, vp: VirtualProcessor) -> None:
        """A VP is gone; an engine that is still there keeps nothing of it."""
        found = self._engines.get(vp.partition.id)
        if vp.partition.runs_code:
            self._past_exits += sum(vp.vcpu.exits)
        if found is not None and not self.keeps_engines:
            found[0].drop_state(vp.regs)

    def _forget(self, partition: Partition) -> None:
        found = self._engines.pop(partition.id, None)
        if found is not None:
            if partition.space.tables is not None:
                partition.space.tables.on_invept = lambda: None
            for vp in partition.vps.values():
                vp.vmcs.clear()                 # while there are registers to be written back
            self.mmio.detach(found[0])
            self._give_up(found[0])

    def _give_up(self, engine: Engine) -> None:
        if self.keeps_engines:
            engine.retire()
            self._kept.append(engine)
        else:
            engine.close()

    @property
    def exits(self) -> int:
        """The VM exits of all VPs that there are and were."""
        return self._past_exits + sum(
            sum(vp.vcpu.exits) for partition in self.hypervisor.partitions.values() if partition.runs_code
            for vp in partition.vps.values())

    def close(self) -> None:
        """Give every engine back to the host."""
        for engine in [*(engine for engine, _ in self._engines.values()), *self._kept]:
            engine.close()
        self._engines.clear()
        self._kept.clear()
