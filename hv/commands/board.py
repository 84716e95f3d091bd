"""What a VM has beside processors and memory, as options of the commands that make one."""

from __future__ import annotations

import argparse

DEVICES = ("dma", "ring")       # kinds of assignable devices: DMA engine, network card


def add_board_arguments(parser: argparse.ArgumentParser) -> None:
    """`--device`, `--pc` and `--viommu`."""
    parser.add_argument("--device", metavar="KIND", nargs="?", const=DEVICES[0], choices=DEVICES, action="append",
                        help="assign a device; behind FILE, repeatable: dma (for dma, device_domain, attacker; that is "
                             "the default), ring (for ring)")
    parser.add_argument("--pc", action="store_true",
                        help="a PC board: interrupt controllers, timers, a PCI bus (for ring)")
    parser.add_argument("--viommu", action="store_true",
                        help="a remapping unit (VT-d) that the guest itself programs (for viommu)")
