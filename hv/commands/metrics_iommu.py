"""The numbers of `hv bench` about devices that reach memory through the IOMMU.

A device of an assigned domain copies scatter lists: pages of 4 KiB in no order, each read and then written at another
place. The unit has cached nothing of a page when a list comes to it.
"""

from __future__ import annotations

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

RAM_MIB, PAGES, LISTS, LIST_LENGTH = 16, 1024, 64, 16
RID = 0x10
IOVA = 0x4000_0000


@metric("dma_page_us", "us", 3, "a device copies a page of a scatter list; baseline: the same memory without a device")
def _dma_page() -> Round:
    with closing(PhysicalMemory(RAM_MIB << 20)) as memory:
        pages = list(range(RAM_MIB << 8))
        driver = IommuDriver(Iommu(memory, lambda message: None), memory, lambda: pages.pop() * PAGE_SIZE,
                             lambda spa: pages.append(spa // PAGE_SIZE))
        device, spas = scattered(driver)
        order = Random(1)
        lists = [order.sample(range(PAGES), 2 * LIST_LENGTH) for _ in range(LISTS)]
        domain = driver.domain_of(RID)
        assert domain is not None, "the device is in a domain"

        def forget() -> None:
            driver.forget_domain(domain)

        copied = per_page(lists, device.dma_read, device.dma_write, lambda page: IOVA + page * PAGE_SIZE, forget)
        bare = per_page(lists, memory.read, memory.write, spas.__getitem__, forget)
        assert memory.read(spas[lists[-1][1]], 8) == memory.read(spas[lists[-1][0]], 8), "the bytes did not arrive"
        return copied, bare


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


def per_page(lists, read, write, place, forget) -> float:  # type: ignore[no-untyped-def]
    """Microseconds to copy one page from *place* to *place*, *forget* called before each list; the median list."""
    spent = []
    for pages in lists:
        forget()
        begin = perf_counter()
        for source, destination in zip(pages[::2], pages[1::2], strict=True):
            write(place(destination), read(place(source), PAGE_SIZE))
        spent.append(perf_counter() - begin)
    return median(spent) / LIST_LENGTH * 1e6
