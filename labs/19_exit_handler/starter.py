"""Exit handlers: what the hypervisor does when the guest executes CPUID, RDMSR or WRMSR.

Each function gets the VP and the exit, and returns a verdict: Advance() when the instruction is done, or
Inject(vector, error_code) when the guest gets an exception instead. `raise GuestFault(vector, error_code)` is the same.

    vp.index                            0 for the first processor
    vp.regs.eax, vp.regs.rax, ...       registers; writing EAX clears the upper half of RAX
    vp.cpuid(leaf, subleaf)             what the processor would answer: EAX, EBX, ECX, EDX
    exit.reason, exit.instruction_length, exit.qualification

Names that stand outside of the functions keep their values from exit to exit.

`hv lab check` says how far you are; `hv lab hint` helps; `hv lab trace` shows what the machine records.
"""

from hypervisor import Advance, GuestFault

SIGNATURE = b"{{signature}}"            # of leaf 0x40000000
SCRATCH = {{msr:#x}}                    # your model-specific register


def handle_cpuid(vp, exit):
    """Answer CPUID: the leaf is in EAX, the subleaf in ECX."""
    return Advance()


def handle_rdmsr(vp, exit):
    """Answer RDMSR: the register's number is in ECX, its value goes into EDX:EAX."""
    return Advance()


def handle_wrmsr(vp, exit):
    """Answer WRMSR: the register's number is in ECX, the value in EDX:EAX."""
    return Advance()
