"""VMX root operation: which VMCSs a logical processor works with, and what VMX instructions do to them.

Read `operation.py` first (VMXON to VMXOFF, as a hypervisor calls them), then `region.py` (a VMCS in memory). What only
a hypervisor in machine code needs: `instructions.py` (from the operands to RFLAGS), `transitions.py` (VM entry and VM
exit between its registers and its guest's), `loading.py` (the registers that they load), `msr_areas.py` and
`processor_msrs.py`.
"""
