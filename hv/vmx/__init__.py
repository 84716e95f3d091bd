"""VT-x: what the processor does for a hypervisor, as Intel's manual defines it. Nothing in here knows Hyper-V.

A `Vcpu` is a logical processor in VMX non-root operation: its VMCS, its registers, and the rules by which what a
guest does becomes a VM exit or is done on the spot. The hypervisor room above gives it an exit handler and says for how
long to run; the machine room below executes the instructions.

Read `vcpu.py` first (the loop), then `intercepts/` (which act causes which exit), `exit.py` (what an exit records),
`checks/` (what VM entry wants), `entry.py` (events as fields), `vmcs.py` (the fields) and `ept.py` (the second-level
tables).

A `VmxOperation` is the other side: which VMCSs a logical processor works with, and what VMX instructions do to them
(`operation.py`, `region.py`). Our hypervisor calls it. One that is machine code executes the instructions
(`instructions.py`), and `transitions.py` moves its registers and its guest's in and out of one vcpu.

May import machine, spec and trace. Imported by the hypervisor, and by debug, lab and platform, which see everything.
"""
