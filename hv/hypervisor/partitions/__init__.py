"""Partitions: the unit of isolation, and what each has once, however many VPs it has.

TLFS "Partition Management". `partition.py` is identity, state and privileges, and holds what other rooms make for it.
Beside it are what CPUID answers there (`cpuid.py`, and what the parent wants instead, `cpuid_results.py`), its time
(`time.py`), its reset (`reset.py`), its end of debug channels (`debug_channels.py`), and the pages of counters that it
may look at (`statistics.py`).

Read `partition.py` first, then `cpuid.py`.
"""
