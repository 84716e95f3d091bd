"""Who could raise a vector on a VP, and whether each of them would: local timer, synthetic timers, SINTs, devices."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from hv.debug.why.chain import Link
from hv.debug.why.tables import Place
from hv.hypervisor.interrupts.routing import Route
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.iommu.interrupts import allowed_sources, requested_index
from hv.spec.apic import ApicRegister, DeliveryMode, Lvt
from hv.spec.msrs import STIMER_COUNT, HvStimerConfig
from hv.spec.pci import PciCommand, PciHeader
from hv.spec.synic import MESSAGE_SIZE
from hv.spec.vtd import ENTRY_SIZE, Irte
from hv.spec.x86 import PAGE_SIZE

_LVTS = tuple(register for register in ApicRegister if register.name.startswith("LVT_"))
_NONE = ("nobody that the hypervisor knows would raise it: no local vector table entry, no SINT, no timer and no "
         "device of the partition has that vector (another VP may still send it as an IPI)")


def vectors(vp: VirtualProcessor) -> list[int]:
    """The vectors that something is set up for, the likeliest first: what runs, then what is not masked."""
    found = [Lvt(vp.apic.lvt[ApicRegister.LVT_TIMER]).vector] if vp.apic.timer._expiry() is not None else []
    found += [_vector_of_timer(vp, n) for n in range(STIMER_COUNT) if vp.timers[n].config.enable]
    found += [vp.synic.sints[n].vector for n, queue in enumerate(vp.synic.queues) if queue]
    found += [Lvt(value).vector for value in vp.apic.lvt.values() if not Lvt(value).masked]
    found += [sint.vector for sint in vp.synic.sints if not sint.masked]
    found += [route.guest_vector for route in _routes(vp)]
    return list(dict.fromkeys(vector for vector in found if vector >= 16))


def sources(place: Place, vector: int) -> list[Link]:
    """Each that has *vector*, with what keeps it from raising it."""
    found = [*_local(place, vector), *_synic(place, vector), *_timers(place, vector), *_devices(place, vector)]
    return found or [Link(_NONE, ok=False)]


# --- the local vector table -----------------------------------------------------------------------------

def _local(place: Place, vector: int) -> Iterator[Link]:
    apic = place.vp.apic
    for register in _LVTS:
        lvt = Lvt(apic.lvt.get(register, 0))
        if lvt.vector == vector and lvt.delivery_mode == DeliveryMode.FIXED:
            masked = bool(lvt.masked)
            link = Link(f"{register.name} has that vector, and is {'' if masked else 'not '}masked", ok=not masked,
                        look=partial(_entry, place, register))
            if register is ApicRegister.LVT_TIMER and not masked:
                link.causes.append(_apic_timer(place))
            yield link


def _apic_timer(place: Place) -> Link:
    timer = place.vp.apic.timer
    at = timer._expiry()
    if at is None:
        return Link(f"the timer ({timer.mode.name.lower()}) stands still: its initial count is {timer.initial}",
                    ok=False, look=lambda: place.vp.apic.timer._expiry() is None)
    return Link(f"the timer ({timer.mode.name.lower()}) counts: it expires at tsc {at}, in {at - timer.clock.tsc} "
                "ticks", ok=True)


def _entry(place: Place, register: ApicRegister) -> object:
    return place.vp.apic.lvt.get(register)


# --- SINTs and synthetic timers ---------------------------------------------------------------------------

def _synic(place: Place, vector: int) -> Iterator[Link]:
    vp = place.vp
    for number, sint in enumerate(vp.synic.sints):
        if sint.vector != vector:
            continue
        masked = bool(sint.masked)
        link = Link(f"SINT{number} has that vector, and is {'' if masked else 'not '}masked", ok=not masked,
                    look=partial(_sint, place, number))
        link.causes += _taking(place, number)
        yield link


def _sint(place: Place, number: int) -> int:
    return place.vp.synic.sints[number].raw


def _taking(place: Place, sint: int) -> Iterator[Link]:
    synic = place.vp.synic
    if not synic.scontrol.enable:
        yield Link("the SynIC is off: bit 0 of HV_SCONTROL is 0", ok=False,
                   look=lambda: place.vp.synic.scontrol.enable)
    if not synic.simp.enable:
        yield Link("there is no message page: bit 0 of HV_SIMP is 0", ok=False, look=lambda: place.vp.synic.simp.enable)
    slot = synic.message_page + sint * MESSAGE_SIZE
    memory, waiting = place.session.machine.memory, len(synic.queues[sint])
    if memory.read_u32(slot):
        waits = f", and {waiting} more wait" if waiting else ""
        yield Link(f"its slot of the message page is full (type {memory.read_u32(slot):#x}){waits}: the guest empties "
                   "it, and writes HV_EOM if MessagePending is set", ok=not waiting,
                   look=lambda: memory.read_u32(slot))


def _vector_of_timer(vp: VirtualProcessor, number: int) -> int:
    config = HvStimerConfig(vp.timers[number].config.raw)
    return config.apic_vector if config.direct_mode else int(vp.synic.sints[config.sintx].vector)


def _timers(place: Place, vector: int) -> Iterator[Link]:
    vp = place.vp
    for number in range(STIMER_COUNT):
        timer = vp.timers[number]
        if not timer.config.raw or _vector_of_timer(vp, number) != vector:
            continue
        expires = timer.inspect()["expires"]
        state = "not enabled" if not timer.config.enable else "enabled, and its count is 0" if not timer.count else \
            "enabled, and has expired" if expires is None else f"enabled, and expires at {expires} (100 ns)"
        yield Link(f"synthetic timer {number} raises it, and is {state}", ok=expires is not None,
                   look=partial(_config, place, number))


def _config(place: Place, number: int) -> int:
    return place.vp.timers[number].config.raw


# --- devices --------------------------------------------------------------------------------------------------

def _routes(vp: VirtualProcessor) -> list[Route]:
    """Those of its partition."""
    devices = sorted({each["source_id"] for each in vp.hypervisor.interrupts.inspect().values()})
    return [route for device in devices for route in vp.hypervisor.interrupts.of_device(device)
            if route.partition is vp.partition]


def _devices(place: Place, vector: int) -> Iterator[Link]:
    for route in _routes(place.vp):
        if route.guest_vector != vector:
            continue
        here = place.vp in route.vps
        targets = ", ".join(str(vp.index) for vp in route.vps)
        link = Link(f"device {route.source_id:#x} raises it: physical vector {route.vector:#x} is routed to vp "
                    f"{targets}", ok=here)
        link.causes += [_bus_master(place, route.source_id), _remapping(place, route.message, route.source_id)]
        yield link


def _bus_master(place: Place, source_id: int) -> Link:
    device = next((each for each in place.session.machine.devices if each.rid == source_id), None)
    if device is None:
        return Link(f"there is no device {source_id:#x}", ok=False)

    def look() -> int:
        return PciCommand(device.config_read(PciHeader.offset_of("command"), 2)).bus_master

    return Link(f"its bus-master bit is {look()}", ok=bool(look()), look=look)


def _remapping(place: Place, message: tuple[int, int], source_id: int) -> Link:
    """The interrupt remapping entry that the device's message names."""
    iommu, memory = place.session.machine.iommu, place.session.machine.memory
    index = requested_index(*message)
    spa = iommu.remapper.table.page * PAGE_SIZE + index * ENTRY_SIZE

    def look() -> int:
        return int.from_bytes(memory.read(spa, ENTRY_SIZE), "little")

    entry = Irte(look())
    mask, first, last = allowed_sources(entry)
    head = f"interrupt remapping entry {index:#x} at spa {spa:#x}"
    if not entry.present:
        return Link(f"{head} is not present", ok=False, look=look)
    if not first <= source_id & mask <= last:
        return Link(f"{head} is for requester {entry.source_id:#x} only", ok=False, look=look)
    return Link(f"{head} is present, gives physical vector {entry.vector:#x}, and takes the device's requester id",
                ok=True)
