"""The MADT: processors, the I/O APIC, and where the lines of ISA are on its pins. ACPI "Multiple APIC Description Table
(MADT)"."""

from __future__ import annotations

from hv.spec.acpi import (
    EVERY_PROCESSOR,
    EVERY_X2APIC_PROCESSOR,
    FIRST_X2APIC_ID,
    MADT_STRUCTURES,
    Madt,
    MadtType,
    MpsInti,
)
from hv.spec.pc import IO_APIC_GPA, IO_APIC_ID, LOCAL_APIC_GPA, TIMER_PIN, Irq

_ENABLED, _HAS_8259S, _NMI_LINT = 1, 1, 1
_LEVEL_HIGH = MpsInti(trigger=3, polarity=1).raw


def _structure(kind: MadtType, **fields: int) -> bytes:
    layout = MADT_STRUCTURES[kind]
    return layout(type=kind, length=layout.SIZE, **fields).pack()


def _processor(index: int) -> bytes:
    if index < FIRST_X2APIC_ID:
        return _structure(MadtType.LOCAL_APIC, processor_uid=index, apic_id=index, flags=_ENABLED)
    return _structure(MadtType.LOCAL_X2APIC, processor_uid=index, x2apic_id=index, flags=_ENABLED)


def madt(vp_count: int) -> tuple[Madt, bytes]:
    """The table, and the structures behind it. A processor's UID and APIC id are its VP index."""
    structures = [_processor(index) for index in range(vp_count)]
    structures += [
        _structure(MadtType.IO_APIC, io_apic_id=IO_APIC_ID, address=IO_APIC_GPA),
        _structure(MadtType.INTERRUPT_SOURCE_OVERRIDE, source=Irq.TIMER, interrupt=TIMER_PIN),
        _structure(MadtType.INTERRUPT_SOURCE_OVERRIDE, source=Irq.ACPI, interrupt=Irq.ACPI, flags=_LEVEL_HIGH),
        _structure(MadtType.LOCAL_APIC_NMI, processor_uid=EVERY_PROCESSOR, lint=_NMI_LINT)]
    if vp_count > FIRST_X2APIC_ID:
        structures.append(_structure(MadtType.LOCAL_X2APIC_NMI, processor_uid=EVERY_X2APIC_PROCESSOR, lint=_NMI_LINT))
    return Madt(local_apic_address=LOCAL_APIC_GPA, flags=_HAS_8259S), b"".join(structures)
