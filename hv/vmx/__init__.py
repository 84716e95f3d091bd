"""VT-x: what the processor does for a hypervisor, as Intel's manual defines it. Nothing in here knows Hyper-V.

A `Vcpu` is a logical processor in VMX non-root operation: its VMCS, its registers, and the rules by which what a
guest does becomes a VM exit or is done on the spot. The hypervisor room above gives it an exit handler and says for how
long to run; the machine room below executes the instructions.

    vcpu.py            the loop: enter, run, trap, exit. Read it first (`controls.py`: what its VMCS asks for)
    vmcs.py            the fields of a VMCS, its launch state (`fields.py`: which of them exist)
    capabilities.py    what the processor offers; all that is refused is refused by it (`left_out.py`: why)
    checks/            what VM entry wants of a VMCS
    intercepts/        which act of a guest causes which exit, and what is done of those that cause none
    exit.py            what an exit records (`instruction_information.py`: about operands)
    events/            injection, what blocks an event, what is due between two instructions
    translation/       EPT, VPID, and what the processor has cached of them
    apic/              the virtual APIC
    root_operation/    the other side: the VMX instructions, and who has which VMCS. Our hypervisor calls
                       `VmxOperation`; one that is machine code executes the instructions

`reset.py` (INIT and SIPI) and `vm_functions.py` (VMFUNC) stand alone.

May import machine, instructions, spec and trace. Imported by the hypervisor, and by debug, lab and platform, which see
everything.
"""
