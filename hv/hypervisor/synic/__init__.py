"""The synthetic interrupt controller: messages and events between partitions, and from the hypervisor to a partition.

TLFS "Virtual Interrupt Controller" and "Inter-Partition Communication". Every VP has one (`synic.py`): sixteen
interrupt sources (SINTs), a page with a message slot for each, a page with 2048 event flags for each, and a queue of
messages that wait for their slot. Ports (`ports.py`) and connections (`connections.py`) say who may send to which
SINT; a monitor page (`monitors.py`) is a way to send events without a hypercall.

Read `synic.py` first.
"""
