"""The debugging REPL: a machine held still between two instructions, and words to ask it things.

No real machine gives this view: the guest's registers and the VMCS that holds them, linear, guest-physical and
system-physical memory, both page walks step by step, the virtual APIC and the SynIC, and the events that led here. It
is what WinDbg with the hypervisor extension is to Hyper-V.

A `Session` is the machine plus the place one looks at (a VP of a VM). Commands are functions registered with
`@command`: the signature is the usage, the docstring the help, and what a command returns is printed by
`render.py`. A session knows nothing of terminals, so tests and scripts use it as the prompt does. What a command
changes in the machine is data (`hv/replay/changes.py`), handed to `Session.change`.

May import everything; imported by `commands` only. Read `session.py`, then `commands/running.py`.
"""
