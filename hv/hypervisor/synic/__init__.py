"""The synthetic interrupt controller: messages and events between partitions, and from the hypervisor to a partition.

TLFS "Virtual Interrupt Controller" and "Inter-Partition Communication". Every VP has one (`synic.py`): sixteen
interrupt sources (SINTs), a page with a message slot for each, a page with 2048 event flags for each, and a queue of
messages that wait for their slot. Ports and connections (`ports.py`) say who may send to which SINT.

Read `synic.py` first.
"""
