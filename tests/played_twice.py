"""Campaigns of seeds, each played twice: what raises, hangs, ends the process or differs is named by its seed."""

from __future__ import annotations

import argparse
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

Play = Callable[[int], list[object]]
BATCH, PATIENCE = 50, 60.0              # seeds of a process; seconds for one of them


def wrong(play: Play, seed: int) -> str:
    """What is wrong with *seed*; "" for nothing."""
    try:
        first, second = play(seed), play(seed)
    except Exception:
        return traceback.format_exc()
    differences = [pair for pair in zip(first, second, strict=False) if pair[0] != pair[1]]
    return f"played otherwise the second time: {differences[:1]}" if first != second else ""


def _batch(play: Play, seeds: range, report: Connection) -> None:
    for seed in seeds:
        report.send((seed, None))
        report.send((seed, wrong(play, seed)))


def campaign(play: Play, first: int, count: int) -> int:
    """Play the seeds *first* .. *first* + *count*, and print what is wrong; how many misbehaved."""
    context, seed, bad = multiprocessing.get_context("fork"), first, 0
    while seed < first + count:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_batch, args=(play, range(seed, min(seed + BATCH, first + count)), sender))
        process.start()
        sender.close()
        found: str | None = "hangs"
        try:
            while receiver.poll(PATIENCE):
                seed, found = receiver.recv()
                if found:
                    bad += 1
                    print(f"seed {seed}: {found}", flush=True)
                found = "hangs" if found is None else None
        except EOFError:
            process.join()
            found = f"ends the process: {process.exitcode}" if process.exitcode else None
        if found:
            bad += 1
            print(f"seed {seed}: {found}", flush=True)
        process.kill()
        process.join()
        seed += 1
    print(f"{count} seeds from {first}: {bad} misbehaved")
    return bad


def main(play: Play, about: str | None) -> int:
    """`--first N --count M`; 1 when a seed misbehaved."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    return int(bool(campaign(play, options.first, options.count)))
