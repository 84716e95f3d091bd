"""Ring -1: the hypervisor. It isolates partitions, schedules their virtual processors, owns every exit and interrupt.

    exits/          what is done for each reason to exit
    hypercalls/     the way in for who asks: `door.py`, and a file for each family of calls
    registers/      a VP as its parent sees it, by the names of its registers
    scheduling/     which VP runs next, on which processor, for how long
    msrs/           what RDMSR and WRMSR find
    vps/            virtual processors: what runs in a partition
    hypervisor.py   the whole: its partitions by id, and the boot of root
    partitions/     the unit of isolation: privileges, CPUID, time, counters
    run.py          the loop: enter, exit, handle, obey (`verdicts.py` has what a handler may decide)
    interrupts/     from a device or a parent to the virtual APIC of who shall have it
    timers/         synthetic timers, and the reference TSC page
    intercepts/     what a parent asked to hear of, and the messages that tell it
    synic/          messages and events between partitions
    devices/        which memory an assigned device sees
    memory/         whose each page is, and at which address a partition has it

Each imports what stands below it here, and not what stands above. A partition and its VPs know each other, so
annotations (`if TYPE_CHECKING`) may name what is above.

Devices, VM management and policy are not here: they live in the root partition and reach the hypervisor by
hypercalls. Imports vmx, iommu, machine, instructions, trace and spec. Only `platform.py`, `debug/` and `lab/` may
import it; root and child are on the other side of the door.

Read `hypervisor.py` first, then `partitions/partition.py`, then `hypercalls/door.py`.
"""
