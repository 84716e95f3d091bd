"""The physical box: a logical processor on the Unicorn engine, RAM, local APICs, buses, assignable devices, a clock.

What silicon does before anybody speaks of virtualization. `engine.py` runs machine code and turns what the guest may
not decide into a `Trap` (`traps.py`); `state.py` is a processor's registers, in place in the engine's context. What the
engine gets wrong or leaves out is done here by the manual: page walks (`paging.py`), event delivery (`idt.py`), port
permission, system calls, control registers. Only the engine's own files (`engine.py`, `guest_mode.py`, `context.py`,
`hooks.py`, `breakpoints.py`, `debug_addresses.py`) import Unicorn, and nobody above this room sees an engine's number.

Read `engine.py` first (its docstring is the technique), then `stubs.py` (what makes it fast), `nested.py` (why it is
safe) and `clock.py` (what time is).

`left_out.py` names what this processor has not, and the rules that its engine does not keep.

Assignable devices are PCI functions (`pci.py`) on a bus (`pci_bus.py`): `dma_engine.py` and `ring_nic.py`.

May import instructions, pci, spec and trace. Imported by vmx, iommu, hypervisor, and by platform, debug, lab and
commands, which see everything.
"""
