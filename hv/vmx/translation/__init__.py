"""From guest-physical to system-physical addresses, and what the processor keeps of it; SDM "VMX Support for Address
Translation".

Read `ept_walk.py` first (what a processor makes of the tables), then `second_level.py` (a virtual processor's accesses
through them), `cached.py` (what is cached, INVEPT and INVVPID) and `controls.py` (what the VMCS asks for). `ept.py`
builds tables for a hypervisor. `remembered.py` and `pdptes.py` are about linear addresses, and
`virtualization_exception.py` about a violation that the guest handles itself; `intercepts/memory.py` makes the exits.
"""
