"""Registers of a device as a `Layout`: which one an access means. A register is accessed whole, as one or two aligned
dwords."""

from __future__ import annotations

from hv.spec.layout import Layout


def find(layout: type[Layout], offset: int, size: int) -> tuple[str, int] | None:
    """The register that an access means, and by how many bits it is shifted there; None for a wrong access."""
    if size not in (4, 8) or offset % size:
        return None
    for name, (start, kind) in layout.FIELDS.items():
        if start <= offset and offset + size <= start + kind.size:
            return name, 8 * (offset - start)
    return None
