"""What of the architecture this processor has not, and which rules its engine does not keep; each with its reason.

`docs/fidelity.md` is made from it. A feature that stands here is in no leaf of CPUID, its bit of CR4 is #GP(0), and its
instructions are #UD.
"""

from __future__ import annotations

from hv.spec.x86 import Cr4

CR4: dict[Cr4, str] = {
    Cr4.UMIP: "the engine executes SGDT, SIDT, SLDT, STR and SMSW at every level",
    Cr4.LA57: "the engine has four levels of paging at most",
    Cr4.SMXE: "there is no safer mode",
    Cr4.FSGSBASE: "the engine's model of the processor has no RDFSBASE",
    Cr4.PCIDE: "the engine's translations are of one address space at a time",
    Cr4.OSXSAVE: "the engine's models with XSAVE have RDRAND, which no run could repeat and nobody can intercept",
    Cr4.KL: "there is no key locker",
    Cr4.SMAP: "the engine's model of the processor has neither STAC nor CLAC",
    Cr4.PKE: "there are no protection keys",
    Cr4.CET: "there are no shadow stacks",
    Cr4.PKS: "there are no protection keys",
    Cr4.UINTR: "there are no user interrupts",
    Cr4.LAM_SUP: "addresses have no ignored bits",
}

RULES: dict[str, str] = {
    "#AC of an unaligned access": "the engine checks no alignment, and no exit says that RFLAGS.AC was set",
    "#GP of MOVAPS and its like off their boundary": "the engine checks no alignment; on a device it is kept",
    "#GP of MOV to CR3 with reserved bits": "MOV to CR3 does not trap outside PAE paging, since a kernel does it at "
                                            "every switch of its address space",
    "#GP before a jump to a non-canonical address": "the engine jumps, and the fetch there is #GP; with the "
                                                    "target on a device it is kept",
    "PUSHF shows no RF": "the engine shows it, from an IRET that loads it up to the next jump",
    "segment limits in 32-bit code": "the engine checks none of an operand",
}
