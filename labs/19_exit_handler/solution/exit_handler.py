"""Exit handlers: a solution."""

from hypervisor import Advance, GuestFault

GP = 13
SIGNATURE = b"{{signature}}"
SCRATCH = {{msr:#x}}
RESERVED = 0xFFFF << 48
LOW = 0xFFFFFFFF

scratch = {}                            # its value, by VP


def handle_cpuid(vp, exit):
    """Our own leaves; all others are as the processor has them."""
    leaf, subleaf = vp.regs.eax, vp.regs.ecx
    if leaf == 0x40000000:
        words = [int.from_bytes(SIGNATURE[at : at + 4], "little") for at in (0, 4, 8)]
        answer = [0x40000000, *words]
    elif 0x40000000 < leaf <= 0x4FFFFFFF:
        answer = [0, 0, 0, 0]
    else:
        answer = vp.cpuid(leaf, subleaf)
    vp.regs.eax, vp.regs.ebx, vp.regs.ecx, vp.regs.edx = answer
    return Advance()


def handle_rdmsr(vp, exit):
    """EDX:EAX is the value."""
    if vp.regs.ecx != SCRATCH:
        raise GuestFault(GP, 0)
    value = scratch.get(vp.index, 0)
    vp.regs.eax, vp.regs.edx = value & LOW, value >> 32
    return Advance()


def handle_wrmsr(vp, exit):
    """The value is EDX:EAX."""
    value = vp.regs.edx << 32 | vp.regs.eax
    if vp.regs.ecx != SCRATCH or value & RESERVED:
        raise GuestFault(GP, 0)
    scratch[vp.index] = value
    return Advance()
