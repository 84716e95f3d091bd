"""Message signalled interrupts by the MSI capability: up to 32 messages at one address, each with a mask bit.

PCI "MSI Capability Structure", "Per-vector Masking".
"""

from __future__ import annotations

from typing import NamedTuple

from hv.pci.config import ConfigSpace
from hv.spec.pci import CAPABILITY_MSI, MsiCapability, MsiControl


class Message(NamedTuple):
    """What an interrupt is on the bus: a write of a dword."""

    address: int
    data: int


class Msi:
    """The MSI capability of a function with 2^*log2_messages* messages. Its state is in configuration space."""

    def __init__(self, config: ConfigSpace, log2_messages: int = 0) -> None:
        self.config, self.log2_messages = config, log2_messages
        control = MsiControl(is_64_bit=1, per_vector_mask=1, capable=log2_messages)
        self.offset = config.add_capability(
            MsiCapability(capability_id=CAPABILITY_MSI, control=control.raw),
            MsiCapability(control=MsiControl(enabled=1, granted=7).raw, address_low=0xFFFF_FFFC,
                          address_high=0xFFFF_FFFF, data=0xFFFF, mask=(1 << (1 << log2_messages)) - 1))

    @property
    def state(self) -> MsiCapability:
        """The capability as it stands."""
        return MsiCapability.parse(self.config.data, self.offset)

    @property
    def enabled(self) -> bool:
        """Interrupts go this way."""
        return bool(MsiControl(self._get("control")).enabled)

    @property
    def count(self) -> int:
        """How many messages software has granted; a grant of more than there are is the most there are."""
        return 1 << min(MsiControl(self._get("control")).granted, self.log2_messages)

    def fire(self, number: int) -> Message | None:
        """What is sent for interrupt *number*: with fewer messages granted, several share one. A masked one waits."""
        number %= self.count
        if self._get("mask") >> number & 1:
            self._set("pending", self._get("pending") | 1 << number)
            return None
        return self._message(number)

    def released(self) -> list[Message]:
        """The messages that waited and do no more, in order; they are sent now."""
        if not self.enabled or not (waiting := self._get("pending") & ~self._get("mask")):
            return []
        self._set("pending", self._get("pending") & ~waiting)
        return [self._message(number) for number in range(self.count) if waiting >> number & 1]

    def _message(self, number: int) -> Message:
        address = self._get("address_high") << 32 | self._get("address_low")
        return Message(address, self._get("data") & -self.count | number)

    def _get(self, name: str) -> int:
        return self.config.field(MsiCapability, name, self.offset)

    def _set(self, name: str, value: int) -> None:
        self.config.set_field(MsiCapability, name, value, self.offset)
