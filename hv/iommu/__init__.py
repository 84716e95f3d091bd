"""The translation unit between devices and memory: Intel VT-d, in legacy mode.

A device that is assigned to a partition knows only that partition's addresses. The unit stands behind every
`PciFunction`: it translates what the device reads and writes through the tables of the domain the device belongs to,
it turns the device's interrupt messages into those its owner allowed, and it refuses, records and reports the rest.
That is how Hyper-V gives a device to a partition without trusting the partition or the device.

Read first `translate.py`, the walk of a request; then `interrupts.py`, `faults.py` and `invalidation.py`; `unit.py`
wires them behind one register file. Those are the silicon. `tables.py` and `driver.py` are software, the part of the
hypervisor that fills the tables: they reach the unit by its registers and its queue, like any system would, so a
forgotten invalidation has the consequences it has in life.

May be imported by `hypervisor` (and by those who see everything); imports `machine`, `trace` and `spec`.
"""

# Simplified: no scalable mode, no page requests, no protected memory regions, no advanced fault log. A request is one
# transaction: it reaches memory whole or not at all. Posted interrupts (`posting.py`) are for who programs a unit; the
# hypervisor's own driver does not use them.
