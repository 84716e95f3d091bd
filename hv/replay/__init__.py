"""Time travel: a machine that can be put back to any moment of its past, and run again from there.

    timeline = Timeline(machine)
    timeline.record()
    timeline.go(Position.parse("E120:7"))
    timeline.backward(lambda record: isinstance(record.event, Hypercall))

Nothing in a machine asks the host for anything, so a run is a function of where it began and of what was done to it
(`acts.py`). What is kept are checkpoints (`checkpoint.py`): the Python objects of the machine (`memento.py`), the
registers of its processors, and the pages of RAM that changed (`pages.py`). All else is found by doing the same again
from the one before (`timeline.py`, `walk.py`).
"""
