"""The numbers of `hv bench` about devices that reach memory through the IOMMU.

A device moves scatter lists: pages of 4 KiB in no order, half of them read and half written. The unit has cached no
translation when a list comes to it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from random import Random
from statistics import median
from time import perf_counter

from hv.commands.metrics import Round, metric
from hv.iommu.driver import IommuDriver
from hv.iommu.unit import Iommu
from hv.machine.pci import PciFunction
from hv.machine.ram import PhysicalMemory
from hv.spec.pci import PciCommand, PciHeader
from hv.spec.x86 import PAGE_SIZE

RAM_MIB, PAGES, LISTS, LIST_LENGTH = 16, 1024, 64, 32
RID = 0x10
IOVA = 0x4000_0000


@metric("dma_page_us", "us", 3, "a device reads or writes a page of a scatter list; baseline: without a device")
def _dma_page() -> Round:
    with closing(PhysicalMemory(RAM_MIB << 20)) as memory:
        pages = list(range(RAM_MIB << 8))
        driver = IommuDriver(Iommu(memory, lambda message: None), memory, lambda: pages.pop() * PAGE_SIZE,
                             lambda spa: pages.append(spa // PAGE_SIZE))
        device, spas = scattered(driver)
        domain = driver.domain_of(RID)
        assert domain is not None, "the device is in a domain"
        order = Random(1)
        lists = [order.sample(range(PAGES), LIST_LENGTH) for _ in range(LISTS)]
        seen = [[IOVA + page * PAGE_SIZE for page in pages] for pages in lists]
        real = [[spas[page] for page in pages] for pages in lists]
        moved = per_page(device.dma_read, device.dma_write, seen, lambda: driver.forget_domain(domain))
        bare = per_page(memory.read, memory.write, real, lambda: driver.forget_domain(domain))
        assert memory.read(real[-1][-1], 8) == memory.read(real[-1][-2], 8), "the bytes did not arrive"
        return moved, bare


def scattered(driver: IommuDriver) -> tuple[PciFunction, list[int]]:
    """A device in a domain of PAGES pages that lie in RAM in no order, and where they lie."""
    driver.start()
    driver.add_device(RID)
    domain = driver.create_domain()
    driver.attach(domain, RID)
    spas = [page * PAGE_SIZE for page in Random(0).sample(range(PAGES), PAGES)]
    for page, spa in enumerate(spas):
        driver.map(domain, IOVA + page * PAGE_SIZE, spa)
        driver.memory.write(spa, page.to_bytes(8, "little") * (PAGE_SIZE // 8))
    device = PciFunction(RID, driver.iommu)
    device.config_write(PciHeader.offset_of("command"), 2, PciCommand(bus_master=1).raw)
    return device, spas


def per_page(read: Callable[[int, int], bytes | None], write: Callable[[int, bytes], object], lists: list[list[int]],
             forget: Callable[[], None]) -> float:
    """Microseconds to read or write one page of *lists* of addresses, *forget* called before each; the median list."""
    spent = []
    for addresses in lists:
        forget()
        begin = perf_counter()
        for source, destination in zip(addresses[::2], addresses[1::2], strict=True):
            data = read(source, PAGE_SIZE)
            assert data is not None, "the device was refused"
            write(destination, data)
        spent.append(perf_counter() - begin)
    return median(spent) / LIST_LENGTH * 1e6
