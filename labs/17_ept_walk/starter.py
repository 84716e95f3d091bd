"""An EPT walk: from a guest-physical address to a system-physical one.

`hv lab check` says how far you are; `hv lab hint` helps.
"""


def walk(eptp, gpa, read_u64):
    """Where *gpa* is in RAM, and what may be done there: (spa, rights); None when nothing is mapped.

    *eptp* is the EPT pointer: bits 51..12 are the address of the PML4 table. read_u64(spa) reads an entry.
    *rights*: 1 read, 2 write, 4 execute, added up.
    """
    return None
