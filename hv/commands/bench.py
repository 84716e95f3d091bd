"""Measure this machine: guest speed, exits, hypercalls, interrupts, partitions, start-up.

Every number is the median of the rounds. In each round all metrics are measured once, and what is compared with bare
Unicorn is measured beside it in the same process. The numbers depend on the host; nothing fails when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from hv.commands.errors import TRUE, CommandError
from hv.commands.screen import console, is_plain

if TYPE_CHECKING:
    from hv.commands.metrics import Metric

DEFAULT_ROUNDS, MOST_ROUNDS = 5, 1000
_MORE_IS_BETTER = ("_ratio", "_per_s", "_per_core")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv bench`."""
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON, and nothing else")
    parser.add_argument("--rounds", metavar="N", type=int, default=DEFAULT_ROUNDS,
                        help=f"how often each is measured (default {DEFAULT_ROUNDS})")
    parser.add_argument("--only", metavar="NAME", action="append", help="measure this metric; may be repeated")
    parser.add_argument("--plain", action="store_true", help="no colours, no progress bar")


def main(args: argparse.Namespace) -> int:
    """Measure, and print."""
    if not 1 <= args.rounds <= MOST_ROUNDS:
        raise CommandError(f"--rounds is {args.rounds}; expected 1..{MOST_ROUNDS}", "5 is enough for a median")
    chosen = choose(args.only)
    results = measure(chosen, args.rounds, progress=not is_plain(args.plain, sys.stderr))
    if args.json:
        print(json.dumps({"metrics": results}, indent=1))
    else:
        show(chosen, results, is_plain(args.plain))
    return TRUE


def choose(names: list[str] | None) -> list[Metric]:
    """The metrics called *names*, or all; CommandError for one that there is not."""
    import hv.commands.metrics_exits
    import hv.commands.metrics_grade
    import hv.commands.metrics_iommu
    import hv.commands.metrics_lab
    import hv.commands.metrics_parallel
    import hv.commands.metrics_replay
    import hv.commands.metrics_smp
    import hv.commands.metrics_step
    import hv.commands.metrics_synic
    import hv.commands.metrics_timers  # noqa: F401  they register their metrics
    from hv.commands.metrics import METRICS

    known = {metric.name: metric for metric in METRICS}
    for name in names or ():
        if name not in known:
            raise CommandError(f"`{name}` is no metric; expected one of {', '.join(known)}")
    return [metric for metric in METRICS if not names or metric.name in names]


def measure(metrics: list[Metric], rounds: int, progress: bool) -> dict[str, dict[str, Any]]:
    """Medians by metric. Rounds are the outer loop, so that a slow minute of the host does not hit one metric alone."""
    values: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    baselines: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    for metric in steps(metrics, rounds, progress):
        value, baseline = metric.measure()
        values[metric.name].append(value)
        if baseline is not None:
            baselines[metric.name].append(baseline)
    return {metric.name: {"value": rounded(values[metric.name]), "unit": metric.unit, "goal": metric.goal,
                          "baseline": rounded(baselines[metric.name])} for metric in metrics}


def rounded(values: list[float]) -> float | None:
    """The median to four digits; None of nothing, or of what this host cannot measure."""
    middle = median(values) if values else None
    return None if middle is None or middle != middle else float(f"{middle:.4g}")


def steps(metrics: list[Metric], rounds: int, progress: bool) -> Iterator[Metric]:
    """Every metric, *rounds* times, with a progress bar on stderr where someone looks."""
    everything = [metric for _ in range(rounds) for metric in metrics]
    if not progress:
        yield from everything
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(everything))
        for metric in everything:
            bar.update(task, description=metric.name)
            yield metric
            bar.advance(task)


def reached(metric: Metric, value: float | None) -> bool:
    """The goal is reached: at least for a ratio and for so many a second, at most for everything else."""
    if value is None:
        return False
    return value >= metric.goal if metric.name.endswith(_MORE_IS_BETTER) else value <= metric.goal


def show(metrics: list[Metric], results: dict[str, dict[str, Any]], plain: bool) -> None:
    """The table for people."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", "value", "goal", "", "baseline", box=box.ASCII2 if plain else box.SIMPLE_HEAD,
                  pad_edge=False, header_style="bold")
    for metric in metrics:
        result = results[metric.name]
        good = reached(metric, result["value"])
        word = "least" if metric.name.endswith(_MORE_IS_BETTER) else "most"
        table.add_row(metric.name, f"{result['value']} {metric.unit}", f"at {word} {metric.goal}",
                      Text("ok" if good else "missed", style="green" if good else "yellow"),
                      "" if result["baseline"] is None else str(result["baseline"]))
    screen = console(plain)
    screen.print(table)
    for metric in metrics:
        screen.print(f"{metric.name}: {metric.meaning}", style="dim", markup=False)
