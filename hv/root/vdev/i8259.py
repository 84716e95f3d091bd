"""The pair of 8259A interrupt controllers of a PC: one chip, and the two of them with their trigger-mode registers.

Intel "8259A Programmable Interrupt Controller"; the edge/level control registers (ELCR) are those of EISA and the ICH.
The slave's output is input 2 of the master. IRR, ISR and IMR are bytes, bit n is input n.

The vector is decided when the processor acknowledges, not when the request is made: a higher one may come in between,
and a request may be gone. Who carries INTR to the processors (`Intr`) says when that was; `hv/root/external_line.py`
does it for a VM.
"""

# Simplified: an edge stays latched until it is acknowledged, as in the chipsets that devices with short pulses rely on
# (the 8259A wants the input to stay high until then); 8080 mode, buffered mode and ICW3 are kept and mean nothing, as
# nothing else can be wired here; one poll in two reads is not told from a poll in one.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hv.spec.pc import PIC_MASTER, PIC_SLAVE, PIC_TRIGGER

CASCADE = 2
SPURIOUS = 7                            # what is acknowledged when nothing is requested
MASTER_VECTORS, SLAVE_VECTORS = 0x08, 0x70      # as the PC's firmware leaves them
_CHANGEABLE_TRIGGERS = (0xF8, 0xDE)     # timer, keyboard, cascade, clock and FPU are edges

# ICW1 (bit 4 of a command), OCW3 (bit 3), and the rest is OCW2; 8259A "Initialization Command Words", "Operation
# Command Words".
_ICW1, _ICW1_SINGLE, _ICW1_WITH_ICW4, _OCW3 = 0x10, 0x02, 0x01, 0x08
_ICW4_AUTO_EOI, _ICW4_SPECIAL_NESTED = 0x02, 0x10
_POLL, _POLLED = 0x04, 0x80


class I8259:
    """One chip, as the firmware leaves it: everything masked. *output* is called with each change of its INT pin."""

    def __init__(self, vector_base: int, output: Callable[[bool], None]) -> None:
        self.output = output
        self.inputs = 0                             # wires that are high
        self.asserted = False                       # INT
        self.reset(vector_base, 0)

    def reset(self, vector_base: int, triggers: int) -> None:
        """As the firmware leaves it."""
        self.vector_base = vector_base
        self.triggers = triggers                    # 1 = level
        self.irr, self.isr = self.inputs & triggers, 0
        self.imr = 0xFF
        self.lowest = 7                             # the input of the lowest priority
        self.init_steps: list[int] = []             # ICWs that are still to come
        self.icw3 = 0
        self.auto_eoi = self.rotates_on_auto_eoi = self.special_nested = self.special_mask = False
        self.reads_isr = self.polls = False
        self.follow()

    # --- wires -----------------------------------------------------------------------------------------

    def set_input(self, number: int, high: bool) -> None:
        """Input *number* is that now. A level is a request as long as it lasts, an edge until it is acknowledged."""
        bit = 1 << number
        rises = high and not self.inputs & bit
        self.inputs = self.inputs | bit if high else self.inputs & ~bit
        if rises and self.irr & bit and self.asserted and self.request() == number:
            self._drive(False)                      # for the request to rise again, it has to fall
        if rises:
            self.irr |= bit
        elif not high and self.triggers & bit:
            self.irr &= ~bit
        self.follow()

    def set_triggers(self, triggers: int) -> None:
        """Which inputs are levels."""
        self.triggers = triggers
        self.irr = self.irr & ~triggers | self.inputs & triggers
        self.follow()

    def request(self) -> int | None:
        """The input that would be acknowledged now: the highest requested, if none so high is in service."""
        wanted = self.irr & ~self.imr
        if not wanted or self.init_steps:
            return None
        highest = self._highest(wanted)
        assert highest is not None, "one of them is"
        holds = self.isr & ~self.imr if self.special_mask else self.isr
        if self.special_nested:
            holds &= ~(1 << CASCADE)                # the slave knows its own order
        in_service = self._highest(holds)
        return highest if in_service is None or self._rank(highest) < self._rank(in_service) else None

    def acknowledge(self) -> int:
        """INTA: the input that is served now; SPURIOUS, and nothing in service, when there is no request."""
        number = self.request()
        if number is None:
            return SPURIOUS
        bit = 1 << number
        if not self.triggers & bit:
            self.irr &= ~bit
        if not self.auto_eoi:
            self.isr |= bit
        elif self.rotates_on_auto_eoi:
            self.lowest = number
        self._drive(False)                          # INT falls with INTA, and rises anew for what waits
        self.follow()
        return number

    def follow(self) -> None:
        """INT is what the registers say."""
        self._drive(self.request() is not None)

    def _drive(self, asserted: bool) -> None:
        if asserted is not self.asserted:
            self.asserted = asserted
            self.output(asserted)

    def _rank(self, number: int) -> int:
        """0 is the highest priority."""
        return number - self.lowest - 1 & 7

    def _highest(self, inputs: int) -> int | None:
        for rank in range(8):
            number = self.lowest + 1 + rank & 7
            if inputs >> number & 1:
                return number
        return None

    # --- ports -----------------------------------------------------------------------------------------

    def read(self, data: bool) -> int:
        """The mask from the data port, IRR or ISR from the other; after a poll command, what was polled."""
        if self.polls:
            self.polls = False
            return self._polled()
        if data:
            return self.imr
        return self.isr if self.reads_isr else self.irr

    def _polled(self) -> int:
        """A read in place of INTA; 8259A "Poll Command"."""
        return 0 if self.request() is None else _POLLED | self.acknowledge()

    def write_data(self, value: int) -> None:
        """The ICW that is due, or the mask (OCW1)."""
        match self.init_steps.pop(0) if self.init_steps else 1:
            case 1:
                self.imr = value
            case 2:
                self.vector_base = value & 0xF8
            case 3:
                self.icw3 = value
            case _:
                self.auto_eoi = bool(value & _ICW4_AUTO_EOI)
                self.special_nested = bool(value & _ICW4_SPECIAL_NESTED)
        self.follow()

    def write_command(self, value: int) -> None:
        """ICW1, OCW2 or OCW3."""
        if value & _ICW1:
            self._initialize(value)
        elif value & _OCW3:
            self._set_reads(value)
        else:
            self._end(value >> 5, value & 7)
        self.follow()

    def _initialize(self, icw1: int) -> None:
        """8259A "Initialization Command Words 1 and 2": what begins with ICW1. An input that is high is no edge."""
        self.irr, self.isr, self.imr, self.lowest = self.inputs & self.triggers, 0, 0, 7
        self.auto_eoi = self.rotates_on_auto_eoi = self.special_nested = self.special_mask = False
        self.reads_isr = self.polls = False
        self.init_steps = [2] + [3] * (not icw1 & _ICW1_SINGLE) + [4] * bool(icw1 & _ICW1_WITH_ICW4)

    def _set_reads(self, ocw3: int) -> None:
        self.polls = bool(ocw3 & _POLL)
        if ocw3 & 0x02:
            self.reads_isr = bool(ocw3 & 0x01)
        if ocw3 & 0x40:
            self.special_mask = bool(ocw3 & 0x20)

    def _end(self, command: int, number: int) -> None:
        """OCW2: bit 0 of *command* is EOI, bit 1 that *number* is meant, bit 2 rotation."""
        ends, named, rotates = command & 1, command & 2, bool(command & 4)
        if not ends and not named:
            self.rotates_on_auto_eoi = rotates
            return
        served = number if named else self._highest(self.isr & ~self.imr if self.special_mask else self.isr)
        if served is None:
            return
        if ends:
            self.isr &= ~(1 << served)
        if rotates:
            self.lowest = served

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {
            "vector_base": self.vector_base, "irr": self.irr, "isr": self.isr, "imr": self.imr,
            "triggers": self.triggers, "inputs": self.inputs, "lowest": self.lowest, "asserted": self.asserted,
            "auto_eoi": self.auto_eoi, "special_mask": self.special_mask, "special_nested": self.special_nested,
            "init_steps": list(self.init_steps),
        }


class Intr(Protocol):
    """The wire from the master's INT to the processors."""

    def taken(self) -> bool:
        """A processor has acknowledged what was offered last; True once."""
        raise NotImplementedError

    def offer(self, vector: int | None, rises: bool, watched: bool) -> bool:
        """INTR stands for *vector*, or is low; *rises* when it was low before. With *watched*, `refresh` is called
        soon after a processor has acknowledged. False, and not done, when one acknowledged at the last moment."""
        raise NotImplementedError


class I8259Pair:
    """Both chips behind their ports, with 16 inputs, and *intr*. The firmware makes those of *levels* level-triggered.
    """

    def __init__(self, intr: Intr, levels: int = 0) -> None:
        self.intr, self._levels = intr, levels
        self._rises = False
        self.master = I8259(MASTER_VECTORS, self._drive)
        self.slave = I8259(SLAVE_VECTORS, self._cascade)
        self.reset()

    def reset(self) -> None:
        """As the firmware leaves them, with everything masked."""
        self.slave.reset(SLAVE_VECTORS, self._levels >> 8)
        self.master.reset(MASTER_VECTORS, self._levels & 0xFF)
        self._show()

    def _cascade(self, asserted: bool) -> None:
        self.master.set_input(CASCADE, asserted)

    def _drive(self, asserted: bool) -> None:
        self._rises |= asserted

    def set_line(self, number: int, asserted: bool) -> None:
        """Interrupt line *number* 0..15 of the board; 2 is the cascade, and nobody else's."""
        if number < 16 and number != CASCADE:
            self._settle()
            (self.slave if number & 8 else self.master).set_input(number & 7, asserted)
            self._show()

    # --- the processor's side --------------------------------------------------------------------------

    @property
    def vector(self) -> int | None:
        """What INTA would give, if INTR is asserted."""
        number = self.master.request()
        if number != CASCADE:
            return None if number is None else self.master.vector_base + number
        slave = self.slave.request()
        return self.slave.vector_base + (SPURIOUS if slave is None else slave)

    def acknowledge(self) -> int:
        """INTA: the vector. A slave whose request is gone gives its input 7, and only the master has one in service."""
        number = self.master.acknowledge()
        if number == CASCADE:
            return self.slave.vector_base + self.slave.acknowledge()
        return self.master.vector_base + number

    def answer(self) -> int:
        """INTA of a processor that is not behind `intr`: the vector."""
        self._settle()
        vector = self.acknowledge()
        self._show()
        return vector

    def _settle(self) -> None:
        """The registers are about to be read or changed: what a processor has done until now, they must say."""
        if self.intr.taken():
            self.acknowledge()

    def _show(self) -> None:
        """Let INTR follow. With automatic EOI, no write of the guest's tells that the next one may come."""
        while not self.intr.offer(self.vector, self._rises, self.master.auto_eoi):
            self.acknowledge()
        self._rises = False

    def refresh(self) -> None:
        """A processor may have acknowledged: offer what comes next."""
        self._settle()
        self._show()

    # --- ports -----------------------------------------------------------------------------------------

    def read_port(self, port: int, size: int) -> int:
        """One register; a wider access gets ones above it."""
        self._settle()
        if port in PIC_TRIGGER:
            value = self._chip(port - PIC_TRIGGER.start).triggers
        else:
            chips = PIC_SLAVE if port in PIC_SLAVE else PIC_MASTER
            value = self._chip(chips is PIC_SLAVE).read(bool(port - chips.start))
        self._show()                                # a poll is an acknowledgement
        return value | (1 << 8 * size) - 0x100

    def write_port(self, port: int, size: int, value: int) -> None:
        """The low byte goes to the register, the rest is lost."""
        self._settle()
        value &= 0xFF
        if port in PIC_TRIGGER:
            which = port - PIC_TRIGGER.start
            self._chip(which).set_triggers(value & _CHANGEABLE_TRIGGERS[which])
        else:
            chips = PIC_SLAVE if port in PIC_SLAVE else PIC_MASTER
            chip = self._chip(chips is PIC_SLAVE)
            (chip.write_data if port - chips.start else chip.write_command)(value)
        self._show()

    def _chip(self, slave: int) -> I8259:
        return self.slave if slave else self.master

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL, as of the last time that a register was touched."""
        return {"master": self.master.inspect(), "slave": self.slave.inspect()}
