"""Interrupts on their way to a VP: from a device, from the parent, from a sibling.

TLFS "Virtual Interrupt Controller". `routing.py` says whose a physical interrupt is. The local APIC of a VP is one the
processor works with (`vp_apic.py`, switched on by `apic_virtualization.py`), or one in software with EOI assist
(`assisted_apic.py`). `external_line.py` goes past the APICs. Two things a parent may ask to hear: that an interrupt
could be delivered (`deliverability.py`), and that one has ended (`eoi_messages.py`).

Read `routing.py` first, then `vp_apic.py`.
"""
