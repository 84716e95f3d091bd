"""What is in the firmware configuration device of a PC: its size, what its program was handed, its memory map."""

from __future__ import annotations

from hv.image.model import BootOptions
from hv.root.memory_map import MemoryMap
from hv.root.vdev import fw_cfg
from hv.root.vdev.fw_cfg import FwCfg
from hv.spec.linux_boot import E820Entry


def describe(device: FwCfg, memory: MemoryMap, vp_count: int, options: BootOptions) -> None:
    """Fill *device*. QEMU "fw_cfg", the usual keys; the map of "etc/e820" is that of a PC's firmware."""
    line = options.command_line.encode() + b"\0"
    processors = vp_count.to_bytes(2, "little")
    items = {fw_cfg.RAM_SIZE: memory.memory_bytes.to_bytes(8, "little"), fw_cfg.PROCESSORS: processors,
             fw_cfg.MOST_PROCESSORS: processors, fw_cfg.COMMAND_LINE_SIZE: len(line).to_bytes(4, "little"),
             fw_cfg.COMMAND_LINE_DATA: line, fw_cfg.INITRD_SIZE: len(options.initrd).to_bytes(4, "little"),
             fw_cfg.INITRD_DATA: options.initrd}
    entries = [E820Entry(address=part.start, size=part.size, type=part.kind).pack() for part in memory.parts]
    device.provide(items, {"etc/e820": b"".join(entries)})
