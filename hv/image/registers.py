"""The processor's register names and their sizes in bytes."""

from __future__ import annotations

_LEGACY = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")

SIZES: dict[str, int] = {
    **dict.fromkeys(("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh", "spl", "bpl", "sil", "dil"), 1),
    **dict.fromkeys(_LEGACY, 2),
    **{f"e{name}": 4 for name in _LEGACY},
    **{f"r{name}": 8 for name in _LEGACY},
    **{f"r{n}": 8 for n in range(8, 16)},
    **{f"r{n}d": 4 for n in range(8, 16)},
    **{f"r{n}w": 2 for n in range(8, 16)},
    **{f"r{n}b": 1 for n in range(8, 16)},
    **dict.fromkeys(("es", "cs", "ss", "ds", "fs", "gs"), 2),
    **{f"cr{n}": 8 for n in range(16)},
    **{f"dr{n}": 8 for n in range(16)},
    **{f"mm{n}": 8 for n in range(8)},
    **{f"xmm{n}": 16 for n in range(16)},
    **{f"ymm{n}": 32 for n in range(16)},
    "st": 10, "rip": 8, "eip": 4, "ip": 2,
}
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")          # in the order the processor numbers them
INSTRUCTION_POINTERS = frozenset({"rip", "eip", "ip"})
VECTORS = frozenset(name for name in SIZES if name.startswith(("xmm", "ymm", "mm")))
ADDRESS_REGISTERS = frozenset(name for name, size in SIZES.items() if size in (2, 4, 8)) - VECTORS - frozenset(SEGMENTS)
LOW_NUMBERS = {f"{prefix}{name}": n for n, name in enumerate(_LEGACY) for prefix in ("", "e", "r")}
