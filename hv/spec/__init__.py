"""What the documents say: layouts, encodings, codes and names. Nothing here behaves.

A structure, register or number of a manual is declared once, in this room, under the manual's own name. Reading,
writing, size, printing and the REPL's view come from that declaration; an offset, shift or mask written anywhere else
is a mistake. `docs/references.md` says which edition of each document we follow.

    x86.py, msrs.py             the processor (SDM volumes 3A and 4)
    vmcs.py, exits.py, ept.py   its VMX mode (SDM volume 3C)
    apic.py, vtd.py, pci.py     interrupt controllers, IOMMU, devices
    cpuid.py, hypercalls/, hv_status.py, hv_registers.py, synthetic_msrs.py, synic.py, partition.py ...
                                the hypervisor's interface (TLFS)

Every room may import this one. It imports nothing of ours, and nothing but the standard library.

Read `layout.py` first: it is the language all the others are written in. Then `exits.py`, the shortest tale.
"""
