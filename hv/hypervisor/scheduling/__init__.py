"""Who runs next, on which logical processor, and for how long.

TLFS "CPU Management". One processor has a `Scheduler` (`scheduler.py`), which asks a queue (`run_queue.py`) whose turn
it is. With `hv run --parallel` each partition has a processor, a scheduler and a host thread of its own (`parallel.py`,
`lanes.py`). `processors.py` and `parallel_processors.py` make the VPs on the engines that there are.

Read `run_queue.py` first, then `scheduler.py`; `docs/decisions/0013-one-lock-above-guest-code.md` before `parallel.py`.
"""
