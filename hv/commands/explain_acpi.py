"""Show the ACPI tables that a PC's operating system finds, field by field, or those of a file.

Without WHAT, one line for each table of a VM with a PC board, as they stand in its memory. WHAT is a table of it by its
signature (APIC, DSDT) or its other name (MADT, FADT), or a file with one table or several, of any machine
(/sys/firmware/acpi/tables/APIC on Linux). --raw writes each table as a file, for other tools, such as `iasl -d`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import CommandError
from hv.commands.subjects import add_output_arguments, answer
from hv.printable import printable

if TYPE_CHECKING:
    from hv.debug.acpi_reading import Found
    from hv.debug.entry_text import Line

_DEFAULT_MIB, _MACHINE_MIB = 64, 64     # of the VM, and what the machine has besides
_MOST_MIB = 2048
_HALT = b"\xf4"
_KNOWN = ("RSDP", "XSDT", "FACP", "FADT", "FACS", "DSDT", "APIC", "MADT", "WAET", "MCFG", "HPET", "DMAR")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv explain acpi`."""
    parser.add_argument("what", metavar="WHAT", nargs="?", help="a table's name, or a file; nothing: all tables")
    parser.add_argument("--smp", metavar="N", type=int, default=1, help="virtual processors of the PC (default 1)")
    parser.add_argument("--mem", metavar="MIB", type=int, default=_DEFAULT_MIB,
                        help=f"its memory in MiB (default {_DEFAULT_MIB})")
    parser.add_argument("--viommu", action="store_true", help="it has a remapping unit: DMAR")
    parser.add_argument("--raw", metavar="DIR", help="write each table there, as NAME.aml")
    add_output_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Explain, and print."""
    from hv.debug import acpi_text as text

    tables = _tables(args)
    if args.raw is not None:
        _write(Path(args.raw), tables)
    alone = args.what is not None
    lines: Iterator[Line] = _each(tables) if alone else text.overview(tables)
    return answer(args, lambda: [text.as_data(table) for table in tables], lambda: lines)


def _each(tables: list[Found]) -> Iterator[Line]:
    from hv.debug import acpi_text as text

    for number, table in enumerate(tables):
        if number:
            yield []
        yield from text.told(table)


def _tables(args: argparse.Namespace) -> list[Found]:
    """What was asked for; CommandError."""
    from hv.debug import acpi_text as text
    from hv.debug.acpi_reading import BadTable, all_of

    what = args.what
    if what is not None and what.upper() not in _KNOWN:
        try:
            return list(all_of(_content(what)))
        except BadTable as error:
            raise CommandError(f"{printable(what)}: {error}", "give it a table as firmware has it, in binary") from None
    tables = _of_a_pc(args.smp, args.mem, args.viommu)
    chosen = tables if what is None else text.chosen(tables, what)
    if not chosen:
        raise CommandError(f"this PC has no {what.upper()}", f"it has {', '.join(table.signature for table in tables)}")
    return chosen


def _content(name: str) -> bytes:
    from hv.debug.acpi_reading import LARGEST_TABLE

    try:
        with Path(name).open("rb") as file:
            data = file.read(LARGEST_TABLE + 1)
    except (OSError, ValueError) as error:
        raise CommandError(f"`{printable(name)}` is no table of this PC, and cannot be read as a file: "
                           f"{getattr(error, 'strerror', None) or error}", f"tables: {', '.join(_KNOWN)}") from None
    if not data or len(data) > LARGEST_TABLE:
        raise CommandError(f"{printable(name)} is {'empty' if not data else 'larger than 16 MiB'}; expected a table")
    return data


def _of_a_pc(vps: int, mebibytes: int, viommu: bool) -> list[Found]:
    """The tables in the memory of a VM that is made for it."""
    from hv.debug.acpi_reading import BadTable, in_memory
    from hv.image.model import Image, Segment
    from hv.platform import Machine, MachineError

    if not 0 < mebibytes <= _MOST_MIB:
        raise CommandError(f"--mem is {mebibytes}; expected 1 to {_MOST_MIB} MiB")
    image = Image("flat", [Segment(0x7C00, _HALT, True, True)], 0x7C00, 16)
    try:
        worker = Machine(mebibytes + _MACHINE_MIB).create_vm(
            "pc", image, mebibytes, vps, pc=True, viommu=viommu).worker
        return in_memory(worker.read)
    except MachineError as error:
        raise CommandError(error.message, error.hint) from None
    except BadTable as error:
        raise CommandError(f"{error}", "a PC has tables from 2 MiB on") from None


def _write(folder: Path, tables: list[Found]) -> None:
    """Each table as NAME.aml; the second of a name as NAME2.aml."""
    from hv.whole_file import put

    seen: dict[str, int] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables:
            number = seen[table.signature] = seen.get(table.signature, 0) + 1
            put(folder / f"{table.signature}{number if number > 1 else ''}.aml", table.data)
    except (OSError, ValueError) as error:
        raise CommandError(f"--raw {printable(str(folder))}: {getattr(error, 'strerror', None) or error}") from None
