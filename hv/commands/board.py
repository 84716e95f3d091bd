"""What a VM has beside processors and memory, as options of the commands that make one."""

from __future__ import annotations

import argparse

from hv.commands.errors import CommandError

DEVICES = ("dma", "ring")       # kinds of assignable devices: DMA engine, network card


def device(text: str) -> str:
    """A kind of device. What stands behind `--device` may be meant as FILE."""
    if text not in DEVICES:
        raise CommandError(f"--device is `{text}`, no kind of device; it takes {' or '.join(DEVICES)}, and FILE comes "
                           "before it", f"hv run {text} --device" if "/" in text or text.isidentifier() else "")
    return text


def add_board_arguments(parser: argparse.ArgumentParser) -> None:
    """`--device`, `--pc` and `--viommu`."""
    parser.add_argument("--device", metavar="KIND", nargs="?", const=DEVICES[0], type=device, action="append",
                        help="assign a device; behind FILE, repeatable: dma (for dma, device_domain, attacker; that is "
                             "the default), ring (for ring)")
    parser.add_argument("--pc", action="store_true",
                        help="a PC board: interrupt controllers, timers, a PCI bus (for ring)")
    parser.add_argument("--viommu", action="store_true",
                        help="a remapping unit (VT-d) that the guest itself programs (for viommu)")
