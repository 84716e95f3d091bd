"""Devices assigned to partitions: which memory each one sees.

TLFS "Device Domains". With its first device a partition gets a domain that follows its GPA space (`domains.py`); it may
make others and say itself what is in them (`explicit_domain.py`), or program a remapping unit of its own
(`virtual_iommu.py`, `shadow.py`). Who gets a device's interrupt is said in
`interrupts/routing.py`; that the domain becomes tables of the IOMMU is the work of `hv/iommu/`.

Read `domains.py` first.
"""
