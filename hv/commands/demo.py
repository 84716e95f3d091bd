"""Show the whole machine at work, and check what is shown.

A root partition makes two children by hypercalls. A's device copies letters by DMA and interrupts A; A posts each
letter to B by hypercall. A third child attacks everyone. Everything printed is taken from the events and the memory of
the run just made, and so is the last table: the exit code is 1 when a check is false.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from hv.commands.errors import CHECKS_FAILED, TRUE
from hv.commands.screen import console, is_plain, shown_time

if TYPE_CHECKING:
    from hv.commands.checks import Check
    from hv.commands.story import Story

WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv demo`."""
    parser.add_argument("--json", action="store_true", help="print the checks as JSON, and nothing else")
    parser.add_argument("--plain", action="store_true", help="no colours")


def main(args: argparse.Namespace) -> int:
    """Run the story, tell it, and check it; 1 when a check is false."""
    from hv.commands import checks, story

    told = story.tell()
    results = checks.check(told)
    if args.json:
        shown = [{"name": result.name, "ok": result.ok, "evidence": result.evidence} for result in results]
        print(json.dumps({"checks": shown}, indent=1))
    else:
        show(told, results, is_plain(args.plain))
    told.machine.close()
    return TRUE if all(result.ok for result in results) else CHECKS_FAILED


def show(story: Story, results: list[Check], plain: bool) -> None:
    """The story on the screen, in six parts."""
    from rich.table import Table
    from rich.text import Text

    screen = console(plain)

    def title(number: int, text: str, explanation: str) -> None:
        screen.print()
        screen.rule(Text(f"{number}. {text}", style="bold cyan"), align="left", characters="-" if plain else "─")
        screen.print(explanation, style="dim", markup=False)
        screen.print()

    def table(columns: list[str], rows: list[Any]) -> None:
        from rich import box

        grid = Table(*columns, box=box.ASCII2 if plain else box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for row in rows:
            grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
        screen.print(grid)

    from hv.commands import telling

    title(1, "The machine", "The hypervisor takes its memory, root owns the rest. Root's hypercalls make children.")
    table(["partition", "is", "memory", "made by"], telling.partitions(story))
    title(2, "A and B take turns", "One processor. The first exits of each, as they happened; port I/O in one line.")
    table(["us", "who", "what", "so"], telling.turns(story))
    screen.print(Text(f"Who ran, at first: {telling.order(story)}"))
    title(3, "The way of a letter", "From A's device to B's interrupt handler. Each line is an event.")
    table(["us", "where", "event", "meaning"], telling.letter(story))
    title(4, "The attacker", "A third child, with a device of its own, tries to reach what is not its own.")
    table(["it tries to", "and gets"], telling.attack(story))
    time = shown_time(story.machine.clock.tsc)
    title(5, "After the attack", f"Memory, hashed before and after. The run stopped at {time}.")
    table(["whose", "before", "after"], telling.hashes(story))
    title(6, "Checks", "Each is computed from the events and the memory of this run.")
    table(["", "check", "evidence"], [(verdict(result), result.name, result.evidence) for result in results])
    failed = sum(1 for result in results if not result.ok)
    text = f"{len(results) - failed} of {len(results)} checks are true."
    screen.print(Text(text, style="bold red" if failed else "bold green"))


def verdict(result: Check) -> Any:
    """`ok` or `FALSE`, coloured where there are colours."""
    from rich.text import Text

    return Text("ok", style="green") if result.ok else Text("FALSE", style="bold red")
