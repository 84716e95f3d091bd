"""A ring of descriptors in guest memory, from the device's side: it reads scatter lists and writes back how it went.

The guest fills descriptors and moves the *tail* behind the last one it gives; the device works from the *head* on. The
ring is empty when they are equal, so a ring of n descriptors gives n - 1 at most. Everything in it is the guest's: a
descriptor is believed only as far as it was checked, and no more than `MOST_PIECES` are looked at in a step.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from hv.machine.pci import PciFunction
from hv.spec.layout import Layout, u16, u32, u64

MOST_PIECES = 32                        # descriptors of one frame
LARGEST_FRAME = 65536                   # bytes
SMALLEST_FRAME = 14                     # two addresses and a type
RING_SIZES = tuple(1 << power for power in range(1, 11))
_ADDRESS_MASK = (1 << 64) - 1


class RingDescriptor(Layout):
    """One piece of a frame, 16 bytes. The guest writes address, length and flags; the device the last eight bytes."""

    address: u64                # as the device sees it
    length: u32                 # bytes, 1..65536; of a piece received: how many of them were filled
    flags: u16                  # DescriptorFlags
    status: u16                 # DescriptorStatus; the guest writes 0


class DescriptorFlags(IntFlag):
    """`RingDescriptor.flags`."""

    END = 1                     # the last piece of its frame; without it the frame goes on in the next descriptor
    INTERRUPT = 2               # transmit: cause an interrupt when the frame has been sent


class DescriptorStatus(IntEnum):
    """`RingDescriptor.status`."""

    GIVEN = 0                   # the device has it
    DONE = 1                    # the guest has it back


class RingError(IntEnum):
    """Why a function stopped: the error code in STATUS."""

    NONE = 0
    RING = 1                    # a ring's base is no multiple of 16, or its size no power of two in 2..1024
    TAIL = 2                    # a tail is beyond its ring
    DESCRIPTOR = 3              # a length of 0 or above 65536, an unknown flag, a status that is not 0
    CHAIN = 4                   # a frame of more than 32 descriptors
    READ_ABORTED = 5            # ABORTED has the address
    WRITE_ABORTED = 6
    FRAME = 7                   # a frame to be sent of less than 14 or more than 65536 bytes
    ACCESS = 8                  # a register was written in a size or at an offset it has not


class RingFault(Exception):
    """The function cannot go on: *error*, and the address that was refused if one was."""

    def __init__(self, error: RingError, address: int = 0) -> None:
        self.error, self.address = error, address
        super().__init__(f"{error.name} {address:#x}")


class Piece(NamedTuple):
    """A descriptor of the ring that was checked; *at* is its number."""

    at: int
    address: int
    length: int
    flags: int


class DescriptorRing:
    """One ring of *function*: where it is, and how far the device has come."""

    def __init__(self, function: PciFunction) -> None:
        self.function = function
        self.base = self.size = self.head = self.tail = 0

    def open(self, base: int, size: int) -> None:
        """Begin with an empty ring of *size* descriptors at *base*; RingFault when it cannot be one."""
        if base % RingDescriptor.SIZE or size not in RING_SIZES:
            raise RingFault(RingError.RING)
        self.base, self.size, self.head, self.tail = base, size, 0, 0

    def give(self, tail: int) -> None:
        """The guest has moved the tail; RingFault when it is not in the ring."""
        if tail >= self.size:
            raise RingFault(RingError.TAIL)
        self.tail = tail

    @property
    def is_empty(self) -> bool:
        """The device has nothing."""
        return self.head == self.tail

    def _address(self, at: int) -> int:
        return self.base + at * RingDescriptor.SIZE & _ADDRESS_MASK

    def frame(self) -> list[Piece] | None:
        """The descriptors of the next frame; None while its last one is not given yet."""
        pieces: list[Piece] = []
        at = self.head
        while at != self.tail:
            if len(pieces) == MOST_PIECES:
                raise RingFault(RingError.CHAIN)
            pieces.append(self._piece(at))
            at = (at + 1) % self.size
            if pieces[-1].flags & DescriptorFlags.END:
                return pieces
        return None

    def room(self, size: int) -> list[Piece] | None:
        """Descriptors with room for *size* bytes together; None when so much is not given."""
        pieces: list[Piece] = []
        at = self.head
        while size > 0:
            if at == self.tail or len(pieces) == MOST_PIECES:
                return None
            pieces.append(self._piece(at))
            size -= pieces[-1].length
            at = (at + 1) % self.size
        return pieces

    def _piece(self, at: int) -> Piece:
        raw = self.read(self._address(at), RingDescriptor.SIZE)
        found = RingDescriptor.parse(raw)
        unknown = found.flags & ~(DescriptorFlags.END | DescriptorFlags.INTERRUPT).value
        if not 1 <= found.length <= LARGEST_FRAME or unknown or found.status != DescriptorStatus.GIVEN:
            raise RingFault(RingError.DESCRIPTOR, self._address(at))
        return Piece(at, found.address, found.length, found.flags)

    def give_back(self, piece: Piece, length: int, flags: int) -> None:
        """Tell the guest that the device is done with a descriptor; it is the next one's turn."""
        done = RingDescriptor(length=length, flags=flags, status=DescriptorStatus.DONE).pack()
        self.write(self._address(piece.at) + 8, done[8:])
        self.head = (piece.at + 1) % self.size

    def read(self, address: int, size: int) -> bytes:
        """Guest memory; RingFault when the request is refused."""
        data = self.function.dma_read(address, size) if address + size <= _ADDRESS_MASK else None
        if data is None:
            raise RingFault(RingError.READ_ABORTED, address)
        return data

    def write(self, address: int, data: bytes) -> None:
        """Likewise."""
        if address + len(data) > _ADDRESS_MASK or not self.function.dma_write(address, data):
            raise RingFault(RingError.WRITE_ABORTED, address)

    def inspect(self) -> dict[str, int]:
        """Plain data."""
        return {"base": self.base, "size": self.size, "head": self.head, "tail": self.tail}
