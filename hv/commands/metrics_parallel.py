"""What `--parallel` brings: two partitions that compute, one after the other by slices and in two threads."""

from __future__ import annotations

import os
from contextlib import closing
from time import perf_counter

from hv.commands import workloads
from hv.commands.metrics import Round, metric, run_to_end
from hv.image.model import Image
from hv.platform import Machine

PARTITIONS, TURNS = 2, 3
LOOPS = 10_000_000


def wall_seconds(image: Image, parallel: bool) -> float:
    """Seconds by the clock that a machine takes to run *image* in each of its partitions."""
    with closing(Machine(memory_mib=64, parallel=parallel)) as machine:
        for number in range(PARTITIONS):
            machine.create_vm(f"bench{number}", image)
        return run_to_end(machine, perf_counter)


@metric("parallel_speedup_ratio", "x", 1.54, "speed of two partitions that compute, with --parallel against without")
def _parallel() -> Round:
    """By the clock, so the best of a few: what else the host runs takes processors away. The baseline is how many."""
    image = workloads.guest(workloads.INTEGER_LOOP, LOOPS)
    times = [(wall_seconds(image, False), wall_seconds(image, True)) for _ in range(TURNS)]
    return min(one for one, _ in times) / min(both for _, both in times), float(os.cpu_count() or 1)
