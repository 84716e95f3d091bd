"""Ring -1: the hypervisor. It isolates partitions, schedules their virtual processors, owns every exit and interrupt.

Here are the partitions and what belongs to them (`partition.py`, `gpa_space.py`, `pages.py`), the answers to
sensitive instructions (`cpuid.py`, `msrs/`, `exits/`), the hypercalls (`hypercalls/`: `door.py` is the only way
in), a VP as its parent sees it (`registers/`, `vp_state.py`), the synthetic interrupt controller (`synic/`) and timers
(`timers/`), the way of interrupts and intercepts (`interrupts.py`, `intercepts.py`), and who runs next
(`scheduler.py`; with a host thread for each partition `parallel.py`).

Devices, VM management and policy are not here: they live in the root partition and reach the hypervisor by
hypercalls. Imports vmx, iommu, machine, trace and spec. Only `platform.py`, `debug/` and `lab/` may import it; root
and child are on the other side of the door.

Read `hypervisor.py` first, then `partition.py`, then `hypercalls/door.py`.
"""
