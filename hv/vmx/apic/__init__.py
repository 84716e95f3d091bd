"""The virtual APIC; SDM "APIC Virtualization and Virtual Interrupts".

Read `virtual_apic.py` first (the virtual-APIC page, and how TPR, PPR, EOI and pending interrupts are virtualized on
it), then `interrupts.py` (when one reaches the guest), `access_page.py` (which accesses to the APIC-access page are
answered from the other one) and `controls.py` (which of this the VMCS asks for). The instructions that touch it are in
`intercepts/apic_access.py` and `intercepts/task_priority.py`.
"""
