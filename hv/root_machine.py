"""A machine whose root partition runs a program of machine code, in place of the management stack.

    machine = RootMachine(load("guests/root_child.asm"))
    machine.run()
    print(machine.guest.ended, machine.guest.serial)

Root's VPs are real ones here. Its guest-physical addresses are the machine's, its IN and OUT reach the machine's own
serial port and power switch, and children exist when its program makes them, by hypercalls.
`docs/decisions/0011-root-may-be-machine-code.md` says why this is a machine of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.registers.table import set_register
from hv.hypervisor.scheduling.scheduler import SLICE_TICKS
from hv.image.model import Image
from hv.platform import DEFAULT_MEMORY_MIB, Box
from hv.root import boot
from hv.root.motherboard import Motherboard
from hv.root.vdev.power import PORTS as POWER_PORTS
from hv.root.vdev.power import PowerSwitch
from hv.root.vdev.uart16550 import COM1, Uart16550
from hv.root.winhv import register_bytes
from hv.trace.events import GuestEnded, SerialOutput


class RootGuest:
    """Root's program, as its user sees it: like a `VirtualMachine`, but nobody's worker stands behind it."""

    crash, resets = None, 0             # there is nobody to report to, and who would start the machine again

    def __init__(self, machine: RootMachine, name: str, kind: str) -> None:
        self.machine, self.name, self.kind = machine, name, kind
        # None while it may run, else "halt", "shutdown", "triple-fault", "budget" or "error"
        self.ended: str | None = None
        self.why = ""                   # a sentence about it, where there is more to say
        self._serial = bytearray()
        self._hear: Callable[[str], None] = lambda text: None

    @property
    def partition(self) -> Partition:
        """The hypervisor's side of it. Only the rooms that see everything look here."""
        return self.machine.hypervisor.root

    @property
    def partition_id(self) -> int:
        return self.partition.id

    @property
    def serial(self) -> str:
        """What the machine's serial port printed."""
        return self._serial.decode("utf-8", "replace")

    def on_serial(self, hear: Callable[[str], None]) -> None:
        """*hear* gets what the serial port prints, as it does."""
        self._hear = hear

    def send(self, byte: int) -> None:
        """The machine's serial port sent *byte*."""
        self._serial.append(byte)
        text = chr(byte)
        self._hear(text)
        if self.machine.trace.listening:
            self.machine.trace.emit(SerialOutput(text))

    def end(self, ended: str, why: str = "") -> None:
        """The machine is off: nobody runs any more."""
        if self.ended is not None:
            return
        self.ended, self.why = ended, why
        for partition in self.machine.hypervisor.partitions.values():
            for vp in partition.vps.values():
                vp.explicit_suspend = True
        self.machine.processor.stop_by(self.machine.clock.tsc)
        if self.machine.trace.listening:
            self.machine.trace.emit(GuestEnded(ended))

    def settle(self) -> bool:
        """End it if its processors can never run again; True when it has ended."""
        vps = [self.partition.vps[index] for index in sorted(self.partition.vps)]
        stopped = next((vp for vp in vps if vp.stopped_because), None)
        if stopped is not None:
            self.end("error", f"vp {stopped.index}: {stopped.stopped_because}")
        elif all(vp.asleep_for_good for vp in vps):
            self.end("halt")
        return self.ended is not None


class RootMachine(Box):
    """A machine with *image* loaded into root's memory, and *vps* root VPs; ImageError when it does not fit.

    The program starts as `docs/guests.md` says. Root's memory ends where the region of the hypervisor begins.
    """

    root_runs_code = True

    def __init__(self, image: Image, memory_mib: int = DEFAULT_MEMORY_MIB, vps: int = 1,
                 slice_ticks: int = SLICE_TICKS, name: str = "root", parallel: bool = False) -> None:
        super().__init__(memory_mib, slice_ticks, parallel=parallel)
        self.guest = RootGuest(self, name, image.kind)
        self.vms = [self.guest]
        self.hypervisor.ports = self.ports = self._plug_ports()
        self.hypervisor.on_shutdown = self._on_shutdown
        for index in range(vps):
            self.hypervisor.create_vp(self.hypervisor.root, index)
        try:
            self._load(image)
        except BaseException:
            self.close()
            raise
        for vp in self.hypervisor.root.vps.values():
            vp.explicit_suspend = False

    def _plug_ports(self) -> Motherboard:
        board = Motherboard()
        board.add("com1", COM1, Uart16550(COM1.start, self.guest.send))
        board.add("power", POWER_PORTS, PowerSwitch(lambda: self.guest.end("shutdown")))
        return board

    def _load(self, image: Image) -> None:
        """What a boot loader does before the hypervisor takes over: program, tables, start state."""
        memory_bytes, root = self.hypervisor.region[0], self.hypervisor.root
        boot.check(image, memory_bytes)
        for gpa, data in boot.tables(image, boot.Information(partition_id=root.id)).items():
            self.memory.write(gpa, data)
        for segment in image.segments:
            self.memory.write(segment.gpa, segment.data)
        for name, value in boot.initial_registers(image, 0, memory_bytes).items():
            set_register(root.vps[0], name, register_bytes(value))
        root.vps[0].registers_written()

    def _on_shutdown(self, vp: Any) -> None:
        """TLFS says that the machine is restarted. # Simplified: it ends, so that somebody sees why."""
        self.guest.end("triple-fault", f"vp {vp.index} triple-faulted at rip {vp.regs.rip:#x}")

    def run(self, until_tsc: int | None = None, paused: Callable[[], bool] | None = None) -> None:
        """Run until root has ended, nobody can run any more, the clock reaches *until_tsc*, or *paused* says so.

        When nobody can run and nothing could wake anybody, root has ended by "halt".
        """
        self.scheduler.run(until_tsc, self.guest.settle, paused)
        if (paused is None or not paused()) and (until_tsc is None or self.clock.tsc < until_tsc):
            self.guest.end("halt")

    def end_budget(self) -> None:
        """Root has used up what it was given, if it still runs."""
        self.guest.end("budget", "the budget of virtual time is used up")
