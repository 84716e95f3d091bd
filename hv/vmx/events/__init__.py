"""Events: how VM entry injects one, what blocks one, and which is due next between two instructions of a guest.

Read `injection.py` first (an event as fields), then `delivery.py` (through the guest's IDT), `exits.py` (events that
are exits instead), `non_register.py` (what blocks and what pends), `boundary.py` (the order of the manual),
`watchful.py` (the loop of a guest that must be looked at between instructions) and `preemption_timer.py`. Events that
an instruction causes are in `intercepts/events.py`.
"""
