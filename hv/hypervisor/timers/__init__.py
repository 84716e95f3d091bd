"""What tells a guest the time, and wakes it: synthetic timers and the reference TSC page.

TLFS "Timers and Clocks". All of it is on the machine's virtual clock: nothing ticks, a timer that is off leaves nothing
behind, and a moment is computed from the one before. The registers are in `hv/hypervisor/msrs/`.

Read `stimer.py` first.
"""
