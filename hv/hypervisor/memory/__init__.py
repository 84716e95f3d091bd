"""Memory: whose each page of RAM is, and at which guest-physical address a partition has it.

TLFS "Memory Management", "Guest Physical Address Spaces". A page belongs to the hypervisor, to root, or to the pool of
a partition, which pays with it for all that is stored for it (`pages.py`). A partition's address space
(`gpa_space.py`) is written into EPT tables; `page_map.py` is the hypervisor's own record of what it wrote.

Read `pages.py` first.
"""
