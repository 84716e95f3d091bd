"""What a structure inside a table means, in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hv.spec.acpi import EVERY_PROCESSOR, EVERY_X2APIC_PROCESSOR, MpsInti

_POLARITIES = {0: "as the bus has it", 1: "active high", 3: "active low"}
_TRIGGERS = {0: "", 1: "edge, ", 3: "level, "}
Fields = Mapping[str, Any]


def _line(raw: int) -> str:
    flags = MpsInti(raw & 0xFFFF)
    return _TRIGGERS.get(flags.trigger, "reserved trigger, ") + _POLARITIES.get(flags.polarity, "reserved polarity")


def _processor(fields: Fields) -> str:
    apic_id = fields["apic_id"] if "apic_id" in fields else fields["x2apic_id"]
    states = {0: "not usable", 1: "enabled", 2: "may be brought online"}
    return f"processor {fields['processor_uid']} has APIC id {apic_id}, {states.get(fields['flags'] & 3, 'enabled')}"


def _nmi(fields: Fields) -> str:
    everyone = fields["processor_uid"] in (EVERY_PROCESSOR, EVERY_X2APIC_PROCESSOR)
    whose = "every processor" if everyone else f"processor {fields['processor_uid']}"
    return f"NMI is on LINT{fields['lint']} of {whose}, {_line(fields['flags'])}"


def _io_apic(fields: Fields) -> str:
    return f"I/O APIC {fields['io_apic_id']} is at {fields['address']:#x}; its pin 0 is line {fields['interrupt_base']}"


def _override(fields: Fields) -> str:
    return f"irq {fields['source']} of ISA is line {fields['interrupt']}, {_line(fields['flags'])}"


def _allocation(fields: Fields) -> str:
    return (f"segment {fields['segment']}, buses {fields['start_bus']} to {fields['end_bus']}: bus 0 is at "
            f"{fields['base']:#x}")


def _unit(fields: Fields) -> str:
    what = "all functions of PCI" if fields["flags"] & 1 else "the devices that follow"
    return f"a remapping unit at {fields['base']:#x}, segment {fields['segment']}, in front of {what}"


def _scope(fields: Fields) -> str:
    return (f"{fields['start_bus']:02x}:{fields['device']:02x}.{fields['function']:x}, "
            f"which has the id {fields['enumeration_id']} in other tables")


SENTENCES: dict[str, Callable[[Fields], str]] = {
    "local_apic": _processor, "local_x2apic": _processor, "local_apic_nmi": _nmi, "local_x2apic_nmi": _nmi,
    "io_apic": _io_apic, "interrupt_source_override": _override, "allocation": _allocation, "drhd": _unit,
    "scope_pci_endpoint": _scope, "scope_io_apic": _scope, "scope_hpet": _scope,
}
