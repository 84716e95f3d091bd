"""Run a guest, or a machine that a .toml file describes, and say how it ended.

FILE is assembly (.asm), an ELF, a flat binary (.bin), a kernel (Linux bzImage, Multiboot 1), a machine (.toml), or the
name of one of our guests (hello). What the guest prints on its serial port appears at once, a summary follows on
stderr. Time is virtual: the same guest gives the same output, byte for byte.

A kernel has a PC board, and finds what it is handed: `hv run vmlinuz --initrd initramfs.cpio.gz --cmdline
"console=ttyS0" --smp 2`, `hv run kernel.elf --module "disk.img root"`. With --interactive your terminal is its serial
port: keys go there as you strike them, Ctrl-C too, and Ctrl-] leaves. While the guest is idle, its time is the clock's.

With --parallel each VM runs in a host thread of its own: faster when several compute, but no run is like another.

With --root the guest is no VM but the root partition: it owns the machine, and makes its own children by hypercalls.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hv.commands import boot_options
from hv.commands.board import add_board_arguments
from hv.commands.description import (
    DEFAULT_KERNEL_MIB,
    DEFAULT_MACHINE_MIB,
    DEFAULT_VM_MIB,
    MachineDescription,
    read,
    root,
    single,
)
from hv.commands.errors import TRUE, CommandError
from hv.commands.files import find_guest
from hv.commands.screen import console, is_plain, shown_time, ticks
from hv.printable import LONGEST_LINE, printable

if TYPE_CHECKING:
    from hv.platform import VirtualMachine
    from hv.root_machine import RootGuest

DEFAULT_BUDGET, DEFAULT_PC_BUDGET = "200ms", "60s"
PARALLEL = "parallel: each VM has a processor and a host thread of its own; times and interleaving differ between runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv run`."""
    parser.add_argument("file", metavar="FILE",
                        help=".asm, .c, .elf, .bin, a kernel, .toml, or the name of one of our guests")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, and nothing else")
    parser.add_argument("--trace", metavar="OUT", type=Path, help="write a timeline that Perfetto opens")
    parser.add_argument("--record", metavar="OUT", type=Path, help="write a replay file, for hv replay and hv repl")
    parser.add_argument("--root", action="store_true", help="run FILE in the root partition itself")
    parser.add_argument("--smp", metavar="N", type=int, help="virtual processors (default 1)")
    parser.add_argument("--mem", metavar="MIB", type=int,
                        help=f"memory in MiB (default {DEFAULT_VM_MIB}, of a kernel {DEFAULT_KERNEL_MIB}, of a machine "
                             f"{DEFAULT_MACHINE_MIB})")
    add_board_arguments(parser)
    parser.add_argument("--ignore-msrs", action="store_true",
                        help="an MSR that is not there reads 0 and takes any value, instead of #GP")
    boot_options.add_arguments(parser)
    on_reset = parser.add_mutually_exclusive_group()
    on_reset.add_argument("--reboot", action="store_true", help="a triple fault resets the PC, as on silicon")
    on_reset.add_argument("--no-reboot", action="store_true", help="a reset of the PC ends the run")
    parser.add_argument("-i", "--interactive", action="store_true",
                        help="this terminal is the serial port of a PC; Ctrl-] leaves. No budget, unless you give one")
    parser.add_argument("--input", metavar="FILE", type=Path, help="text that is typed at the serial port")
    parser.add_argument("--after", metavar="TEXT", help="type it when the guest has printed TEXT (with --input)")
    parser.add_argument("--until", metavar="TIME",
                        help="stop at this moment of the machine's time, which is no failure: 10ms, 2s, or ticks")
    parser.add_argument("--budget", metavar="TIME",
                        help=f"fail if it still runs after so much virtual time (default {DEFAULT_BUDGET}, with a PC "
                             f"board {DEFAULT_PC_BUDGET})")
    parser.add_argument("--parallel", action="store_true", help="a host thread for each VM; no run is like another")
    parser.add_argument("--debug", action="store_true", help="record the run; the REPL opens where it breaks")
    parser.add_argument("--plain", action="store_true", help="no colours")


def describe(args: argparse.Namespace) -> MachineDescription:
    """The machine that the arguments ask for."""
    place = find_guest(args.file)
    if place.suffix.lower() != ".toml":
        return single(place, place.stem, args.mem, 1 if args.smp is None else args.smp, args.device or (),
                      _ignores_msrs(args), boot_options.of_arguments(args), _on_reset(args) or "restart")
    for option, value in (("--smp", args.smp), ("--mem", args.mem), ("--device", args.device or None),
                          ("--ignore-msrs", _ignores_msrs(args) or None),
                          (boot_options.given(args), boot_options.given(args) or None),
                          ("--reboot, or --no-reboot,", _on_reset(args))):
        if value is not None:
            raise CommandError(f"{option} says what {place.name} says itself", "write it into the description")
    return read(place)


def describe_root(args: argparse.Namespace) -> MachineDescription:
    """The machine whose root partition runs the file."""
    place = find_guest(args.file)
    if place.suffix.lower() == ".toml":
        raise CommandError(f"{place.name} describes VMs, which a root of machine code makes itself", "leave --root out")
    if args.device:
        raise CommandError("--device assigns a device to a VM; root has all of them", "leave --device out")
    if option := boot_options.given(args):
        raise CommandError(f"{option} is for a VM; root has the machine itself", f"leave {option} out")
    if _ignores_msrs(args):
        raise CommandError("--ignore-msrs is a property that root gives a VM", "leave --ignore-msrs out")
    return root(place, place.stem, DEFAULT_MACHINE_MIB if args.mem is None else args.mem,
                1 if args.smp is None else args.smp)


def _on_reset(args: argparse.Namespace) -> str | None:
    """What `hv run` was told to do when a PC is reset; a description may say it, too."""
    return "reboot" if getattr(args, "reboot", False) else "end" if getattr(args, "no_reboot", False) else None


def _ignores_msrs(args: argparse.Namespace) -> bool:
    """Only `hv run` has the option; other commands say it in a description."""
    return bool(getattr(args, "ignore_msrs", False))


def default_budget(description: MachineDescription) -> int:
    """Ticks: what runs on a PC has more to do before it ends."""
    return ticks(DEFAULT_PC_BUDGET if any(vm.pc for vm in description.vms) else DEFAULT_BUDGET)


class SerialPrinter:
    """Prints what the serial ports send as they send it: of several VMs, line by line with the VM's name."""

    def __init__(self, vms: Sequence[VirtualMachine | RootGuest]) -> None:
        self._lines = {vm.name: "" for vm in vms}
        for vm in vms:
            vm.on_serial(self._alone if len(vms) == 1 else partial(self._among_others, vm.name))

    def _alone(self, text: str) -> None:
        print(text, end="", flush=True)

    def _among_others(self, name: str, text: str) -> None:
        *whole, self._lines[name] = (self._lines[name] + text).split("\n")
        for line in whole:
            print(f"{name}: {line}", flush=True)

    def finish(self) -> None:
        """Print the lines that were never ended."""
        for name, rest in self._lines.items():
            if rest:
                print(f"{name}: {rest}")


def main(args: argparse.Namespace) -> int:
    """Run it; 3 when a guest crashed or used up its budget."""
    until = None if args.until is None else ticks(args.until)
    asked = None if args.budget is None else ticks(args.budget)
    description = describe_root(args) if args.root else describe(args)
    budget = default_budget(description) if asked is None else asked
    if args.interactive:
        from hv.commands import interactive

        interactive.check(args, description)
    _check_writable(args.trace)
    if args.debug:
        _check_debug(args)
        from hv.commands import debugging

        return debugging.run(args, description, budget)
    if args.record is not None and args.parallel:
        raise CommandError("--record with --parallel: no run of it is like another", "leave one of them out")
    from hv.commands import building, outcome, replay, typed

    text = typed.read(args)
    replay.check_writable(args.record)
    images = building.images_of(description)
    machine, vms = building.build_any(description, args.parallel, images)
    if args.interactive:
        return _sit_before(args, machine, vms[0], replay.kept_machine(description, images),
                           machine.clock.tsc + asked if until is None and asked is not None else until)
    if args.parallel and not args.json:
        print(PARALLEL, file=sys.stderr)
    printer = SerialPrinter([] if args.json else vms)
    timeline = _timeline(machine, vms, args.trace)
    end = machine.clock.tsc + budget if until is None else until
    try:
        if args.record is not None:
            replay.record(machine, end, replay.kept_machine(description, images), args.record, text)
        elif text is None:
            building.run(machine, end)
        else:
            typed.run(machine, end, text)
        still = [vm.name for vm in vms if vm.ended is None]
        if not args.until:
            machine.end_budget()
    finally:
        printer.finish()
        if timeline is not None:
            _write(timeline, args.trace)
    if args.json:
        print(json.dumps(outcome.of_machine(machine, vms), indent=1))
    else:
        print_summary(outcome.summary(machine, vms), vms, args.plain)
    code = TRUE if args.until and all(vm.ended is None for vm in vms) else outcome.exit_code(vms)
    machine.close()
    if still and not args.until:
        raise CommandError(f"{', '.join(still)} still ran when its budget, {shown_time(budget)} of virtual time, ended",
                           "raise it with --budget 10s, or stop on purpose with --until", code)
    return code


def _sit_before(args: argparse.Namespace, machine: Any, vm: Any, made_from: Any, end: int | None) -> int:
    """Run *vm* with the terminal at its serial port; the exit code."""
    from hv.commands import interactive, outcome

    timeline = _timeline(machine, [vm], args.trace)
    try:
        left = interactive.sit(machine, vm, end, args.record, made_from)
    finally:
        if timeline is not None:
            _write(timeline, args.trace)
    if left:
        vm.worker.end("left", "Ctrl-] was pressed")
    elif not args.until:
        machine.end_budget()
    print_summary(outcome.summary(machine, [vm]), [vm], args.plain)
    code = TRUE if args.until and vm.ended is None else outcome.exit_code([vm])
    machine.close()
    return code


def _check_debug(args: argparse.Namespace) -> None:
    """What a run that is recorded in memory, and then looked at, cannot be together with."""
    for option, value in (("--parallel", args.parallel), ("--json", args.json), ("--trace", args.trace),
                          ("--record", args.record), ("--until", args.until), ("--input", args.input)):
        if value:
            raise CommandError(f"--debug with {option}", "leave one of them out")


def _timeline(machine: Any, vms: Sequence[VirtualMachine | RootGuest], place: Path | None) -> Any:
    """The listener that makes the timeline, if one was asked for."""
    if place is None:
        return None
    from hv.trace.chrome import ChromeTrace

    names = {machine.hypervisor.root.id: "root", **{vm.partition_id: printable(vm.name) for vm in vms}}
    timeline = ChromeTrace(names=names)
    machine.trace.listen(timeline)
    return timeline


def _check_writable(place: Path | None) -> None:
    """Before the run, not after it: can the timeline be written, and over nothing but an older one?

    What is to run may be several files, included ones too, so none is replaced that does not look like a timeline.
    """
    if place is None:
        return
    from hv.trace.chrome import BEGIN

    try:
        if place.is_file():
            with place.open("r+b") as file:
                begin = file.read(len(BEGIN)).decode("latin-1")
            if begin not in ("", BEGIN):
                raise CommandError(f"{place} is there already, and is no timeline; expected a new file",
                                   "name another, such as out.json")
        elif place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        elif not place.exists():
            place.open("xb").close()
            place.unlink()
    except (OSError, ValueError) as error:
        found = f"{place} cannot be written: {getattr(error, 'strerror', None) or error}"
        raise CommandError(found, "name a file in an existing folder") from None


def _write(timeline: Any, place: Path) -> None:
    try:
        timeline.write(place)
    except OSError as error:
        raise CommandError(f"the timeline {place} cannot be written: {error.strerror}",
                           "make room, or name another file") from None


def print_summary(lines: list[str], vms: list[Any], plain: bool) -> None:
    """How the run ended, on standard error."""
    sys.stdout.flush()
    lines = [printable(line, LONGEST_LINE) for line in lines]
    if any(vm.serial and not vm.serial.endswith("\n") for vm in vms[:1]) and len(vms) == 1:
        print(flush=True)
    if is_plain(plain, sys.stderr):
        print("\n".join(lines), file=sys.stderr)
        return
    screen = console(plain=False)
    screen.stderr = True
    for line in lines:
        screen.print(line, style="dim" if line.startswith(" ") else "bold", markup=False)
