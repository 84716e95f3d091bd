"""A teaching device that copies memory on its own: what an assigned device does, without a driver in the way.

Its registers are BAR 0 (`DmaEngineRegisters`); a register is written and read whole, as one or two aligned dwords:

| offset | size | register | |
|---|---|---|---|
| 00 | 4 RO | ID | "DMAE" |
| 04 | 4 RO | STATUS | `DmaStatus` |
| 08 | 8 | SOURCE | address as the device sees it |
| 10 | 8 | DESTINATION | likewise |
| 18 | 4 | LENGTH | bytes, 1..65536 |
| 1C | 4 WO | COMMAND | `DmaCommand`; starts |
| 20 | 8 RO | ABORTED | the address the IOMMU refused, of the last command |
| 28 | 8 | MSI_ADDRESS | |
| 30 | 4 | MSI_DATA | |
| 34 | 4 | MSI_ENABLE | bit 0; while 0 interrupt 0 of MSI-X or MSI is used, if one is enabled |
| 38 | 4 WO | INTERRUPT_ACK | any value: clears done, error, error code and interrupt |
| 3C | 4 | PATTERN | what FILL repeats |

A command takes its parameters when it is written, and 2 us and one tick per byte of virtual time until it ends. Then
the bytes move, in pieces that cross no page of either side, each read and then written; the piece that is refused ends
the command, those before it stay. The end, good or bad, is announced by an MSI. A function-level reset forgets it all.

A mistake is told in STATUS and changes nothing else: COMMAND while busy, an unknown command, a length out of range, an
access of a wrong size. Reads of what is not there give all ones.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar

from hv.machine.clock import TSC_HZ, Timer, VirtualClock
from hv.machine.device_registers import find
from hv.machine.pci import DmaPort, PciFunction, all_ones
from hv.spec.layout import Layout, Register, bits, u32, u64
from hv.spec.pci import DeviceId
from hv.spec.x86 import PAGE_SIZE

DEVICE_MAGIC = int.from_bytes(b"DMAE", "little")
LONGEST = 65536                         # bytes in one command
SETUP_TICKS = 2 * TSC_HZ // 1_000_000
_ADDRESS_MASK = (1 << 64) - 1


class DmaEngineRegisters(Layout):
    """BAR 0 of the device, 64 bytes of 4096."""

    id: u32
    status: u32
    source: u64
    destination: u64
    length: u32
    command: u32
    aborted: u64
    msi_address: u64
    msi_data: u32
    msi_enable: u32
    interrupt_ack: u32
    pattern: u32


class DmaCommand(IntEnum):
    """COMMAND."""

    COPY = 1
    FILL = 2


class DmaError(IntEnum):
    """Error code in STATUS."""

    NONE = 0
    LENGTH = 1                          # LENGTH is 0 or more than 65536
    COMMAND = 2                         # unknown
    BUSY = 3                            # COMMAND was written while another one ran
    READ_ABORTED = 4                    # ABORTED has the address
    WRITE_ABORTED = 5
    ACCESS = 6                          # a register was written in a size or at an offset it has not


class DmaStatus(Register):
    """STATUS."""

    WIDTH: ClassVar[int] = 32
    busy = bits(0)
    done = bits(1)                      # the last command ended well
    error = bits(2)
    interrupt = bits(3)                 # the end was announced and not acknowledged
    code = bits(11, 8)                  # DmaError


WRITABLE = frozenset({"source", "destination", "length", "msi_address", "msi_data", "msi_enable", "pattern"})


class DmaEngine(PciFunction):
    """The DMA engine with requester id *rid*, on *clock*."""

    DEVICE_ID: ClassVar[int] = DeviceId.DMA_ENGINE.value
    CLASS_CODE: ClassVar[tuple[int, int, int]] = (0x08, 0x01, 0x00)    # system peripheral, DMA controller

    def __init__(self, rid: int, upstream: DmaPort, clock: VirtualClock) -> None:
        super().__init__(rid, upstream)
        self.clock = clock
        self.registers = DmaEngineRegisters(id=DEVICE_MAGIC)
        self.status = DmaStatus()
        self._timer: Timer | None = None        # the command under way

    def reset_device(self) -> None:
        """The command under way, if any, never ends."""
        self.clock.cancel(self._timer)
        self.registers, self.status = DmaEngineRegisters(id=DEVICE_MAGIC), DmaStatus()

    def read_register(self, offset: int, size: int) -> int:
        """A register, or half of one of eight bytes; all ones for anything else."""
        found = find(DmaEngineRegisters, offset, size)
        if found is None:
            return all_ones(size)
        self.registers.status = self.status.raw
        name, shift = found
        value: int = getattr(self.registers, name)
        return value >> shift & all_ones(size)

    def write_register(self, offset: int, size: int, value: int) -> None:
        """Write a register, or half of one; to a read-only one nothing happens, a wrong access is an error."""
        found = find(DmaEngineRegisters, offset, size)
        if found is None:
            self._fail(DmaError.ACCESS)
            return
        name, shift = found
        if name == "command":
            self._start(value)
        elif name == "interrupt_ack":
            self.status = DmaStatus(busy=self.status.busy)
        elif name in WRITABLE:
            kept = getattr(self.registers, name) & ~(all_ones(size) << shift)
            setattr(self.registers, name, kept | value << shift)

    def _fail(self, code: DmaError) -> None:
        self.status.error, self.status.code = 1, code

    def _start(self, command: int) -> None:
        job = DmaEngineRegisters(**{name: getattr(self.registers, name) for name in DmaEngineRegisters.FIELDS})
        job.command = command
        if self.status.busy:
            self._fail(DmaError.BUSY)
        elif command not in set(DmaCommand):
            self._fail(DmaError.COMMAND)
        elif not 1 <= job.length <= LONGEST:
            self._fail(DmaError.LENGTH)
        else:
            self.status = DmaStatus(busy=1)
            self.registers.aborted = 0
            self._timer = self.clock.at(self.clock.tsc + SETUP_TICKS + job.length, lambda: self._finish(job))

    def _finish(self, job: DmaEngineRegisters) -> None:
        self.status.busy = 0
        if self._move(job):
            self.status.done = 1
        self.status.interrupt = 1
        if self.registers.msi_enable & 1:
            self.send_message(self.registers.msi_address, self.registers.msi_data)
        else:
            self.interrupt()

    def _move(self, job: DmaEngineRegisters) -> bool:
        done = 0
        while done < job.length:
            source, destination = (job.source + done) & _ADDRESS_MASK, (job.destination + done) & _ADDRESS_MASK
            room = PAGE_SIZE - destination % PAGE_SIZE
            if job.command == DmaCommand.COPY:
                room = min(room, PAGE_SIZE - source % PAGE_SIZE)
            size = min(room, job.length - done)
            data = self.dma_read(source, size) if job.command == DmaCommand.COPY else _fill(job.pattern, done, size)
            if data is None:
                return self._abort(DmaError.READ_ABORTED, source)
            if not self.dma_write(destination, data):
                return self._abort(DmaError.WRITE_ABORTED, destination)
            done += size
        return True

    def _abort(self, code: DmaError, address: int) -> bool:
        self._fail(code)
        self.registers.aborted = address
        return False

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        self.registers.status = self.status.raw
        return {**super().inspect(), "registers": self.registers.inspect(), "status": self.status.inspect()}


def _fill(pattern: int, done: int, size: int) -> bytes:
    """*size* bytes of the pattern, as they stand *done* bytes after its start."""
    four = pattern.to_bytes(4, "little")
    return (four * (size // 4 + 2))[done % 4 : done % 4 + size]
