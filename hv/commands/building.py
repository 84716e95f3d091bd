"""From a description to a machine that is ready to run, and running it so that Ctrl-C stops it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from hv.commands import report
from hv.commands.description import LARGEST_VM_MIB, MachineDescription
from hv.commands.errors import CommandError
from hv.image.errors import ImageError
from hv.image.load import MOST_MEMORY_BYTES, load
from hv.image.model import Image

if TYPE_CHECKING:
    from pathlib import Path

    from hv.bare_machine import BareMachine
    from hv.platform import Machine, VirtualMachine
    from hv.root_machine import RootGuest, RootMachine


def load_image(place: Path, unpack: bool = True, most_bytes: int = MOST_MEMORY_BYTES) -> Image:
    """The program in *place*, which may become *most_bytes* large; CommandError when it cannot be loaded."""
    try:
        return load(place, unpack=unpack, most_bytes=most_bytes)
    except ImageError as error:
        raise CommandError(error.message, error.hint) from None


def images_of(description: MachineDescription) -> list[Image]:
    """The programs of its VMs; CommandError."""
    return [load_image(vm.image, vm.unpack, vm.memory_mib << 20) for vm in description.vms]


def build_any(description: MachineDescription, parallel: bool = False, images: list[Image] | None = None) -> tuple[
        Machine | RootMachine, list[VirtualMachine] | list[RootGuest]]:
    """`build`, or the machine whose root partition runs the one image of the description.

    *images* are the programs, where they are not to be loaded from their files.
    """
    return build_root(description, parallel, images) if description.root else build(description, parallel, images)


def build_root(description: MachineDescription, parallel: bool = False,
               images: list[Image] | None = None) -> tuple[RootMachine, list[RootGuest]]:
    """The machine with its root, ready to run; the last events are kept for a report."""
    (root,), (image,) = description.vms, images or images_of(description)
    from hv.platform import MachineError
    from hv.root_machine import RootMachine

    try:
        machine = RootMachine(image, root.memory_mib, root.vps, name=root.name, parallel=parallel)
    except (ImageError, MachineError) as error:
        raise CommandError(f"{root.name}: {error.message}", error.hint) from None
    report.watch(machine.trace)
    return machine, machine.vms


def build(description: MachineDescription, parallel: bool = False,
          images: list[Image] | None = None) -> tuple[Machine, list[VirtualMachine]]:
    """The machine and its VMs, in the order of the description; the last events are kept for a report."""
    images = images or images_of(description)
    for vm, image in zip(description.vms, images, strict=True):
        if image.end > vm.memory_mib << 20:
            needed = -(-image.end >> 20)
            raise CommandError(f"{vm.image.name} needs memory up to {image.end:#x}; it has {vm.memory_mib} MiB",
                               f"give it {needed} MiB (--mem, or memory_mib)" if needed <= LARGEST_VM_MIB else
                               f"a VM has {LARGEST_VM_MIB} MiB at most: place the program lower")
    from hv.platform import Machine, MachineError

    machine = Machine(memory_mib=description.memory_mib, parallel=parallel)
    report.watch(machine.trace)
    by_name: dict[str, VirtualMachine] = {}
    try:
        for vm, image in zip(description.vms, images, strict=True):
            other = by_name.get(vm.other)
            by_name[vm.name] = machine.create_vm(vm.name, image, vm.memory_mib, vm.vps, False, other, vm.pc,
                                                 vm.options, vm.devices, vm.viommu)
            by_name[vm.name].worker.restarts = vm.on_reset != "end"
            by_name[vm.name].worker.reboots = vm.on_reset == "reboot"
            if vm.ignore_msrs:
                by_name[vm.name].worker.ignore_msrs()
    except (ImageError, MachineError) as error:
        raise CommandError(f"{vm.name}: {error.message}", error.hint) from None
    for connection in description.connections:
        machine.connect_as(connection, by_name)
    return machine, list(by_name.values())


class Interrupted:
    """Whether Ctrl-C was pressed. Code of *own_file* is interrupted at once: nobody else looks at the flag there."""

    def __init__(self, own_file: str = "") -> None:
        self.asked, self.own_file = False, own_file

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename == self.own_file:
            raise KeyboardInterrupt
        # An exception here could surface inside a callback of the engine, where Python may not raise.
        self.asked = True

    def take(self) -> bool:
        """Whether it was pressed since the last time somebody asked."""
        asked, self.asked = self.asked, False
        return asked


@contextmanager
def ctrl_c(own_file: str = "") -> Iterator[Interrupted]:
    """Inside, Ctrl-C only sets a flag, which `run` looks at; code of *own_file* gets KeyboardInterrupt."""
    interrupted = Interrupted(own_file)
    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def run(machine: Machine | RootMachine | BareMachine, until_tsc: int) -> None:
    """Run until every VM ended, nobody can run any more, or the clock reaches *until_tsc*.

    KeyboardInterrupt when Ctrl-C was pressed, between two exits.
    """
    with ctrl_c() as interrupted:
        machine.run(until_tsc, paused=lambda: interrupted.asked)
    if interrupted.asked:
        raise KeyboardInterrupt
