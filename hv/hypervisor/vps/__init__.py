"""Virtual processors: what runs in a partition.

TLFS "Virtual Processor Management". `vp.py` is one with an engine behind it: a VMCS (`vmcs.py`), registers as its guest
knows them (`guest_registers.py`), and whether it may run. `root_vp.py` is root's, whose program is Python. A VP is
started with all its registers given (`start.py`), saved as bytes and taken over again (`state.py`); `sets.py` reads
which VPs a hypercall means; `npiep.py` keeps some instructions from its user programs.

Its local APIC is in `interrupts/`, its registers by name are in `registers/`, its MSRs in `msrs/`.

Read `vp.py` first.
"""
