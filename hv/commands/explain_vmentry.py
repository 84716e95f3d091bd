"""Say why VM entry fails: every rule that a VMCS breaks, the bits by name, and the smallest change that mends it.

FILE is a VMCS as JSON, an object of field names and values: {"GUEST_CR0": "0x80000030", "GUEST_RFLAGS": 2}; `-` reads
it from standard input. Fields that are left out are those of a small valid 64-bit guest, and reported as assumed.
Capability MSRs may stand there too ("IA32_VMX_CR0_FIXED0", ...), and "MAXPHYADDR".
A guest (.asm, .elf, .bin, .toml, or the name of one of ours) is run to its end, or to where its entry fails, and the
VMCS of its VP 0 is looked at. With --bare it has the processor to itself, as in the labs where you write a hypervisor:
its own VMCS is looked at, at the last VM entry that failed, or at its end.

Exit code: 0 the guest is entered, 1 a rule fails, 2 the input is bad.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hv.commands.errors import CHECKS_FAILED, TRUE, USAGE, CommandError
from hv.commands.screen import ticks
from hv.commands.subjects import show
from hv.printable import one_line, printable

if TYPE_CHECKING:
    from hv.vmx.capabilities import Capabilities
    from hv.vmx.checks.explain import Explanation

_GUESTS = (".asm", ".s", ".c", ".elf", ".bin", ".img", ".com", ".toml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv explain vmentry`."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-",
                        help="a VMCS as JSON (`-`, or nothing: standard input), or a guest to run")
    parser.add_argument("--json", action="store_true", help="print a list of what fails as JSON, and nothing else")
    parser.add_argument("--verbose", action="store_true",
                        help="show every field that was assumed; with --json, one object with everything")
    parser.add_argument("--set", metavar="FIELD=VALUE", dest="changes", action="append", default=[],
                        help="what if this field had this value; may be repeated")
    parser.add_argument("--processor", choices=("modelled", "complete"), default="modelled",
                        help="whose rules: the processor modelled here, or one with every feature of the manual")
    parser.add_argument("--legacy-host", action="store_true", help="VMLAUNCH is executed outside IA-32e mode")
    parser.add_argument("--rules", action="store_true", help="list every rule, and leave")
    parser.add_argument("--budget", metavar="TIME", default="200ms", help="how long a guest runs (default 200ms)")
    parser.add_argument("--bare", action="store_true", help="the guest is itself the hypervisor of the machine")
    parser.add_argument("--smp", metavar="N", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--mem", metavar="MIB", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--device", action="append_const", const="dma", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help="no colours")


def main(args: argparse.Namespace) -> int:
    """Explain, and print."""
    from hv.debug.entry_text import rules_told, told
    from hv.vmx.checks.reading import BadVmcs

    if args.rules:
        show(rules_told(), args.plain)
        return TRUE
    try:
        explanation = explained(args)
    except BadVmcs as error:
        return refuse([(problem.field, problem.message) for problem in error.problems], args)
    except CommandError as error:
        if not args.json:
            raise
        return refuse([("", str(error))], args)
    if args.json:
        print(json.dumps(explanation.inspect() if args.verbose else explanation.as_list(), indent=1))
        for rule in explanation.unchecked:
            print(f"not checked: {rule.id}: there is no memory to read", file=sys.stderr)
        for control in explanation.without_rules:
            print(f"not checked: the rules of {control} are not here", file=sys.stderr)
    else:
        show(told(explanation, args.verbose, columns()), args.plain)
    return TRUE if explanation.entered else CHECKS_FAILED


def refuse(problems: Iterable[tuple[str, str]], args: argparse.Namespace) -> int:
    """Say each problem in a line, or all as a JSON list."""
    name = "standard input" if args.file == "-" else args.file
    if args.json:
        print(json.dumps([{"field": field or None, "error": message} for field, message in problems], indent=1))
        return USAGE
    for field, message in problems:
        print(f"hv: {one_line(f'{name}: {field}: {message}' if field else f'{name}: {message}')}", file=sys.stderr)
    return USAGE


def explained(args: argparse.Namespace) -> Explanation:
    """What VM entry makes of the file or the guest; BadVmcs, CommandError."""
    changes = [change(text) for text in args.changes]
    if args.file != "-" and is_guest(args.file):
        return of_guest(args, changes)
    from hv.vmx.checks.explain import explain
    from hv.vmx.checks.reading import pairs_of, read

    pairs = [*pairs_of(content(args.file)), *changes]
    return explain(*read(pairs, processor(args.processor), not args.legacy_host))


def change(text: str) -> tuple[str, Any]:
    """`GUEST_CR0=0x31` as a key and a value."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise CommandError(f"--set is `{text}`; expected a field and a value", "such as --set GUEST_CR0=0x31")
    return name, int(value) if value.isascii() and value.isdecimal() and len(value) < 40 else value


def processor(name: str) -> Capabilities:
    """The processor called *name*."""
    from hv.vmx.capabilities import COMPLETE, PROCESSOR

    return COMPLETE if name == "complete" else PROCESSOR


def is_guest(name: str) -> bool:
    """*name* is a program to run: by its suffix, or because there is no such file but a guest of ours."""
    from hv.image.library import guest_names

    place = Path(name)
    if place.suffix.lower() in _GUESTS:
        return True
    try:
        return not place.exists() and name in guest_names()
    except (OSError, ValueError):
        return False


def content(name: str) -> bytes:
    """The bytes of the file, one more than a VMCS may have at most."""
    from hv.vmx.checks.reading import LARGEST_BYTES

    if name == "-":
        if sys.stdin.isatty():
            raise CommandError("FILE is missing", "a VMCS as JSON, a guest, or `-` with JSON on standard input")
        return sys.stdin.buffer.read(LARGEST_BYTES + 1)
    try:
        with open(name, "rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        found = f"{printable(name)} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise CommandError(found, "expected a VMCS as JSON, or a guest") from None


def of_guest(args: argparse.Namespace, changes: list[tuple[str, Any]]) -> Explanation:
    """Run a guest to its end, or to where its entry fails, and look at its VP 0."""
    from hv.commands import building
    from hv.commands.run import describe
    from hv.vmx.checks.explain import explain
    from hv.vmx.checks.reading import read

    if args.processor != "modelled" or args.legacy_host:
        raise CommandError("--processor and --legacy-host are for a VMCS in a file",
                           "a guest runs on the processor modelled here")
    budget = ticks(args.budget)
    if args.bare:
        return of_hypervisor(args, changes, budget)
    machine, vms = building.build(describe(args))
    try:
        vcpu, at_the_end = vms[0].partition.vps[0].vcpu, []
        # When a VM ends its VMCSs are cleared: this is the last moment.
        vms[0].partition.on_teardown.insert(0, lambda partition: at_the_end.append(vcpu.entry()))
        building.run(machine, machine.clock.tsc + budget)
        entry = at_the_end[0] if at_the_end else vcpu.entry()
        return explain(read(changes, over=entry).entry if changes else entry)
    finally:
        machine.close()


def of_hypervisor(args: argparse.Namespace, changes: list[tuple[str, Any]], budget: int) -> Explanation:
    """Run a program that has the processor, and look at the VMCS which it made."""
    from hv.bare_machine import BareMachine
    from hv.commands import building
    from hv.commands.files import find_guest
    from hv.image.errors import ImageError
    from hv.vmx.checks.explain import explain
    from hv.vmx.checks.reading import read

    try:
        machine = BareMachine(building.load_image(find_guest(args.file)))
    except ImageError as error:
        raise CommandError(error.message, error.hint) from None
    try:
        building.run(machine, machine.clock.tsc + budget)
        if not machine.refused and machine.operation.current is None:
            raise CommandError(f"{args.file} has no current VMCS", "it enters VMX operation by VMXON, then VMPTRLD")
        entry = machine.refused[-1] if machine.refused else machine.entry()
        return explain(read(changes, over=entry).entry if changes else entry)
    finally:
        machine.close()


def columns() -> int:
    """How wide lines may be: as the terminal is, and 80 where there is none, so that a file is always the same."""
    from hv.debug.entry_text import WIDTH

    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
