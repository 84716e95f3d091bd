"""Makes `docs/fidelity.md`: one row for each control bit, check, exit reason, instruction and event of VT-x, and
for each register, command, descriptor and fault reason of VT-d.

    python -m tests.fidelity            write it, from the tests that ran and passed
    python -m tests.fidelity --check    say what is missing or not up to date; 1 when anything is

The rows come from the code: the enumerations of `hv/spec`, the registry of `hv/vmx/checks`, and the reasons of
`hv/vmx/capabilities.py`, `hv/vmx/left_out.py` and `hv/iommu/left_out.py`. The tests come from pytest: those marked with
`proves`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from hv.hypervisor.devices.virtual_iommu import GUEST_CAPABILITIES, GUEST_EXTENDED
from hv.iommu import left_out as iommu_left_out
from hv.iommu.unit import CAPABILITIES as IOMMU_CAPABILITIES
from hv.iommu.unit import EXTENDED_CAPABILITIES
from hv.machine import left_out
from hv.spec import exits, vmcs, vtd
from hv.spec.ept import EptVpidCap
from hv.spec.exits import INSTRUCTIONS, ExitReason
from hv.spec.layout import Register
from hv.spec.msrs import Msr
from hv.spec.x86 import Cr4
from hv.vmx.capabilities import LEFT_OUT, PROCESSOR
from hv.vmx.checks import RULES
from hv.vmx.left_out import OTHERS

_TESTS = Path(__file__).parent
DOCUMENT = _TESTS.parent / "docs" / "fidelity.md"
SHOWN = 3           # tests named in a row; how many more there are is said

CONTROLS: tuple[tuple[type[IntFlag], str], ...] = (
    (vmcs.PinControls, "Pin-based VM-execution controls"),
    (vmcs.PrimaryControls, "Primary processor-based VM-execution controls"),
    (vmcs.SecondaryControls, "Secondary processor-based VM-execution controls"),
    (vmcs.TertiaryControls, "Tertiary processor-based VM-execution controls"),
    (vmcs.ExitControls, "VM-exit controls"),
    (vmcs.SecondaryExitControls, "Secondary VM-exit controls"),
    (vmcs.EntryControls, "VM-entry controls"),
    (vmcs.VmFunctions, "VM functions"),
)
EVENTS: tuple[tuple[type[IntEnum | IntFlag], str], ...] = (
    (exits.InterruptionType, "Types of events that VM entry injects"),
    (vmcs.Interruptibility, "Interruptibility state"),
    (vmcs.ActivityState, "Activity states"),
    (exits.EntryFailure, "Qualifications of a failed entry"),
    (exits.VmInstructionError, "VM-instruction errors"),
    (vmcs.VmxAbort, "VMX aborts"),
)
CAPABILITIES: tuple[tuple[type[Register], Msr], ...] = (
    (vmcs.VmxBasic, Msr.VMX_BASIC), (vmcs.VmxMisc, Msr.VMX_MISC), (EptVpidCap, Msr.VMX_EPT_VPID_CAP),
)
# Of VT-d, and the reasons of what is left out.
REMAPPING: tuple[tuple[type[IntEnum], str, Mapping[IntEnum, str]], ...] = (
    (vtd.VtdRegister, "registers", iommu_left_out.REGISTERS),
    (vtd.FaultReason, "fault reasons", {}),
    (vtd.DescriptorType, "invalidation descriptors", {}),
    (vtd.TranslationType, "translation types of a context entry", {}),
    (vtd.SourceValidation, "source-id validation of an interrupt remapping entry", {}),
)
NOT_OFFERED = "not offered"
_NO_SMM_OR_ENCLAVES = {vmcs.Interruptibility.BLOCKING_BY_SMI: "there is no system-management mode",
                       vmcs.Interruptibility.ENCLAVE_INTERRUPTION: "there are no enclaves"}


@dataclass(frozen=True)
class Row:
    """One thing the manual names: *name* as `proves` says it, *what* for the reader, and why it is *left_out*, if."""

    name: str
    what: str
    left_out: str = ""


Section = tuple[str, list[Row]]


def sections() -> Iterator[Section]:
    """Everything the manual names, by section, in the manual's order."""
    for kind, title in CONTROLS:
        reasons = LEFT_OUT.get(kind, {})
        yield title, [Row(f"control/{kind.__name__}.{bit.name}", f"{bit.name} ({bit.bit_length() - 1})",
                          reasons.get(bit, "")) for bit in kind]
    for group in dict.fromkeys(rule.group for rule in RULES):
        yield f"Checks: {group.value}", [Row(f"rule/{rule.id}", rule.id) for rule in RULES if rule.group == group]
    no_exits = OTHERS[ExitReason]
    yield "Exit reasons", [Row(f"exit/{reason.name}", f"{reason.name} ({reason.value})", no_exits.get(reason, ""))
                           for reason in ExitReason]
    yield "Instructions that exit, or are virtualized", [
        Row(f"instruction/{name}", name, no_exits.get(reason, ""))
        for reason, names in INSTRUCTIONS.items() for name in names]
    for kind, title in EVENTS:
        reasons = _NO_SMM_OR_ENCLAVES if kind is vmcs.Interruptibility else OTHERS.get(kind, {})
        yield title, [Row(f"event/{member.name}", f"{member.name} ({int(member)})",
                          reasons.get(member, "")) for member in kind]
    for layout, index in CAPABILITIES:
        yield f"{layout.__name__}: what is offered", list(_capability_rows(layout, PROCESSOR.msrs[index]))
    yield "Bits of CR4", [Row(f"cr4/{bit.name}", f"{bit.name} ({bit.bit_length() - 1})", left_out.CR4.get(bit, ""))
                          for bit in Cr4]
    yield "Rules that the engine does not keep", [Row(f"engine/{rule}", rule, why)
                                                  for rule, why in left_out.RULES.items()]
    yield from _remapping()


def _remapping() -> Iterator[Section]:
    """Those of VT-d. Where the unit that a guest may have of its own offers something else, both are told."""
    for kind, title, reasons in REMAPPING:
        yield f"VT-d: {title}", [Row(f"iommu/{kind.__name__}.{member.name}", f"{member.name} ({int(member):#x})",
                                     reasons.get(member, "")) for member in kind]
    yield "VT-d: global commands", [
        Row(f"iommu/GlobalCommand.{name}", f"{name} ({field.low})", iommu_left_out.COMMANDS.get(name, ""))
        for name, field in vtd.GlobalCommand.BITS.items()]
    for own, guests in ((IOMMU_CAPABILITIES, GUEST_CAPABILITIES), (EXTENDED_CAPABILITIES, GUEST_EXTENDED)):
        rows = zip(_capability_rows(type(own), own.raw), _capability_rows(type(guests), guests.raw), strict=True)
        yield f"VT-d: {type(own).__name__}, what is offered", [_of_both(mine, theirs) for mine, theirs in rows]


def _of_both(own: Row, guests: Row) -> Row:
    if own == guests:
        return own
    return Row(own.name, f"{own.what}, a guest's own: {guests.what.rpartition(' ')[2]}")


def _capability_rows(layout: type[Register], raw: int) -> Iterator[Row]:
    found = layout(raw)
    for field in layout.BITS:
        value = getattr(found, field)
        yield Row(f"capability/{layout.__name__}.{field}", f"{field} = {value}", "" if value else NOT_OFFERED)


# --- The tests ---------------------------------------------------------------------------------------------------

class Collector:
    """A pytest plugin: which tests prove which rows, and which of them failed."""

    def __init__(self) -> None:
        self.proofs: dict[str, list[str]] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in item.iter_markers("proves"):
                for row in marker.args:
                    self.proofs.setdefault(row, []).append(item.nodeid)
        items[:] = [item for item in items if item.get_closest_marker("proves")]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def collect(*arguments: str) -> Collector:
    """Run pytest over all tests that prove something: only files that name `tests.proves` are read."""
    files = [str(file) for file in sorted(_TESTS.rglob("test_*.py")) if "tests.proves" in file.read_text("utf-8")]
    collector = Collector()
    status = pytest.main([*arguments, "-p", "no:cacheprovider", *files], plugins=[collector])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest could not collect the tests ({status!r})")
    return collector


def complaints(proofs: dict[str, list[str]]) -> list[str]:
    """What is wrong with *proofs*: a row without one, a proof of what is left out or is no row."""
    rows = {row.name: row for _, rows in sections() for row in rows}
    found = [f"{name}: no test proves it, and no reason says why it is left out"
             for name, row in rows.items() if not row.left_out and name not in proofs]
    found += [f"{name}: {tests[0]} proves what is no row" for name, tests in proofs.items() if name not in rows]
    return found


# --- The document ------------------------------------------------------------------------------------------------

def document(proofs: dict[str, list[str]]) -> str:
    """The text of `docs/fidelity.md`."""
    parts = [_HEAD]
    for title, rows in sections():
        if rows:
            parts.append(f"## {title}\n\n| what | shown by, or left out because |\n|---|---|\n"
                         + "".join(f"| {row.what} | {_shown(row, proofs.get(row.name, []))} |\n" for row in rows))
    return "\n".join(parts)


def _shown(row: Row, tests: list[str]) -> str:
    cases = Counter(name.removeprefix("tests/").partition("[")[0] for name in tests)
    names = [f"`{name}`" + (f" ({count} cases)" if count > 1 else "") for name, count in cases.items()]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    if row.left_out:
        return f"*left out*: {row.left_out}" + (f" ({shown})" if shown else "")
    return shown or "**nothing**"


_HEAD = """\
# Fidelity: what of VT-x and VT-d is here, and which test shows it

Made by `make fidelity` from the code and from the tests that passed; a test keeps it up to date. What this processor
leaves out is refused by the capability MSRs, and stands here with its reason. SDM volume 3C is the document meant, and
volume 3A for the bits of CR4; at the end, for DMA and interrupt remapping, VT-d in legacy mode.
"""


def main(arguments: Iterable[str]) -> int:
    """Write the document, or check it."""
    check = "--check" in arguments
    collector = collect(*(["--collect-only", "-qq"] if check else ["-q"]))
    if collector.failed:
        print(f"{len(collector.failed)} tests fail, the first is {collector.failed[0]}", file=sys.stderr)
        return 1
    wrong, text = complaints(collector.proofs), document(collector.proofs)
    if check and (not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != text):
        wrong.append("docs/fidelity.md is not up to date: run `make fidelity`")
    if not check:
        DOCUMENT.write_text(text, encoding="utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
