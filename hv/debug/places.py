"""Names for addresses: the symbols and source lines of each VM's program."""

from __future__ import annotations

from bisect import bisect_right

from hv.image.model import Image

_FAR = 0x4000           # an address further behind a symbol is no part of it


class Places:
    """*images* by VM name."""

    def __init__(self, images: dict[str, Image]) -> None:
        self._images = images
        self._sorted = {name: sorted((address, label) for label, address in image.symbols.items())
                        for name, image in images.items()}

    def symbols(self, vm: str) -> dict[str, int]:
        """The symbols of the program of *vm*."""
        return self._images[vm].symbols if vm in self._images else {}

    def name(self, vm: str, address: int) -> str:
        """`start+0x12`, or the plain address."""
        table = self._sorted.get(vm, [])
        position = bisect_right(table, (address, "\U0010ffff")) - 1
        if position >= 0 and address - table[position][0] < _FAR and self._inside(vm, address):
            # Of several labels at one place the first by name.
            base = table[position][0]
            label = min(label for at, label in table if at == base)
            return label if address == base else f"{label}+{address - base:#x}"
        return f"{address:#x}"

    def source(self, vm: str, address: int) -> str:
        """`timer.asm:31`, or nothing."""
        return self._images[vm].places.get(address, "") if vm in self._images else ""

    def _inside(self, vm: str, address: int) -> bool:
        return any(segment.gpa <= address < segment.gpa + len(segment.data) for segment in self._images[vm].segments)
