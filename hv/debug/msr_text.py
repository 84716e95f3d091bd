"""A model-specific register as lines for people: what `hv explain msr` says of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hv.hypervisor.msrs  # noqa: F401  provides the MSRs
from hv.debug.declared import bits_of
from hv.debug.entry_text import Line
from hv.debug.interface_text import fields_told, labelled, privileges
from hv.hypervisor.msrs.absent import ABSENT
from hv.hypervisor.msrs.processor import READERS, WRITERS
from hv.hypervisor.msrs.registry import MSRS
from hv.spec.msrs import X2APIC_MSRS, Msr
from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE, SyntheticMsr

_ACCESS = {"RW": "read and written", "R": "read only: WRMSR is #GP", "W": "written only: RDMSR is #GP"}


def manual_name(msr: Msr) -> str:
    """The name in the manual: HV_X64_MSR_SIMP, IA32_EFER."""
    return f"HV_X64_MSR_{msr.name.removeprefix('HV_')}" if msr.name.startswith("HV_") else f"IA32_{msr.name}"


def is_there(index: int) -> bool:
    """A guest of this hypervisor can read or write it, if it has the privilege."""
    provided = MSRS.get(index)
    return bool(provided and (provided.read or provided.write)) or index in READERS or index in WRITERS


def msr_told(msr: Msr, value: int | None = None) -> Iterator[Line]:
    """What *msr* is, who may do what with it, and its bits; in *value*, if there is one."""
    row = SYNTHETIC_MSR_TABLE.get(int(msr))
    yield [("bold", manual_name(msr)), ("", f"   {int(msr):#x}")]
    yield []
    if not is_there(int(msr)):
        yield [("bad", "not here"), ("", ": an access is #GP(0)" if int(msr) in ABSENT else
                                     ": an access is #GP(0), unless the parent intercepts it")]
        if int(msr) in ABSENT:
            yield labelled("why", ABSENT[int(msr)])
    if row is not None:
        yield from _synthetic(row)
    else:
        yield labelled("kind", "a register of the local APIC in x2APIC mode" if int(msr) in X2APIC_MSRS
                       else "the processor's own")
        yield labelled("manual", 'SDM volume 4, "Model-Specific Registers"')
    if value is not None and (row is None or row.layout is None):
        yield labelled("value", f"{value:#018x}")
    if row is not None and row.layout is not None:
        yield labelled("bits", f"{row.layout.__name__}{'' if value is None else f' in {value:#018x}'}")
        yield from fields_told(bits_of(row.layout, value))
    if row is not None and value is not None and value & row.must_be_zero:
        yield [("bad", f"   #GP(0): bits {value & row.must_be_zero:#x} must be zero")]


def _synthetic(row: SyntheticMsr) -> Iterator[Line]:
    yield [("", f"{row.meaning[:1].upper()}{row.meaning[1:]}.")]
    yield []
    yield labelled("access", _ACCESS[row.access])
    yield labelled("one for each", row.scope.value)
    yield labelled("needs", "; ".join(privileges(int(row.privilege))) if row.privilege else "no privilege")
    if row.reset is not None:
        yield labelled("after reset", f"{row.reset:#x}")
    if row.must_be_zero:
        yield labelled("#GP(0) when", f"any of the bits {row.must_be_zero:#x} is written as 1")
    yield labelled("manual", f'TLFS "{manual_name(row.msr)}"')


def msrs_told() -> Iterator[Line]:
    """Every synthetic MSR in a line."""
    width = max(len(manual_name(row.msr)) for row in SYNTHETIC_MSR_TABLE.values())
    for index, row in sorted(SYNTHETIC_MSR_TABLE.items()):
        there = is_there(index)
        yield [("", f"{index:#x}  "), ("bold" if there else "dim", f"{manual_name(row.msr):<{width}}  "),
               ("", f"{row.access:<3}"), ("dim", row.meaning if there else f"not here: {row.meaning}")]


def msr_as_data(msr: Msr, value: int | None = None) -> dict[str, Any]:
    """The same as plain data."""
    row = SYNTHETIC_MSR_TABLE.get(int(msr))
    told: dict[str, Any] = {"index": int(msr), "name": manual_name(msr), "built": is_there(int(msr))}
    if row is None:
        return told
    told |= {"means": row.meaning, "access": row.access, "scope": row.scope.value, "reset": row.reset,
             "privileges": privileges(int(row.privilege or 0)), "must_be_zero": row.must_be_zero}
    if row.layout is not None:
        told["bits"] = [field._asdict() for field in bits_of(row.layout, value)]
    return told
