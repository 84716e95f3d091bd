"""Makes `docs/hypercalls.md`: every hypercall and every synthetic MSR, and whether this hypervisor has it.

    python -m tests.reference            write it
    python -m tests.reference --check    1 when it is not up to date

The rows come from the tables that `hv explain` answers from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from hv.debug.declared import summary
from hv.debug.interface_text import call_name, kind_of
from hv.debug.msr_text import is_there, manual_name
from hv.hypervisor.hypercalls.left_out import reason
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.spec.cpuid import HvPrivilege
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE

DOCUMENT = Path(__file__).parent.parent / "docs" / "hypercalls.md"
_ROOT = DOCUMENT.parent.parent


def page() -> str:
    """The whole document."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Hypercalls and synthetic MSRs"
    yield ""
    yield "Made by `make reference` from the tables of the code; `hv explain hypercall`, `hv explain msr` and"
    yield "`hv explain status` say more of each row: inputs and outputs by offset, bits, privileges, statuses."
    yield ""
    yield "## Hypercalls"
    yield ""
    yield f"{len(HYPERCALLS)} of {len(HypercallCode)} codes are built. A call that is not answers"
    yield "HV_STATUS_INVALID_HYPERCALL_CODE."
    yield ""
    yield "| code | call | kind | needs | what it does, or why it is not here |"
    yield "|---|---|---|---|---|"
    for code in HypercallCode:
        yield _call_row(code)
    yield ""
    yield "## Synthetic MSRs"
    yield ""
    yield "An access without the privilege is #GP(0), as is one to an MSR that is not here."
    yield ""
    yield "| index | MSR | access | of each | needs | what it is |"
    yield "|---|---|---|---|---|---|"
    for index, row in sorted(SYNTHETIC_MSR_TABLE.items()):
        there = "" if is_there(index) else "*not here:* "
        yield (f"| {index:#x} | {manual_name(row.msr)} | {row.access} | {row.scope.value} | "
               f"{_privileges(int(row.privilege or 0))} | {there}{row.meaning} |")


def _call_row(code: HypercallCode) -> str:
    call = HYPERCALLS.get(int(code))
    if call is None:
        return f"| {int(code):#06x} | {call_name(code)} | | | *not here:* {reason(code)} |"
    module = f"hv/hypervisor/hypercalls/{call.handler.__module__.rpartition('.')[2]}.py"
    assert (_ROOT / module).exists(), f"{module} is where {code.name} is done"
    text = summary(call.handler).replace("|", "\\|")
    return (f"| {int(code):#06x} | [{call_name(code)}](../{module}) | {kind_of(call)} | "
            f"{_privileges(call.privilege)} | {text} |")


def _privileges(mask: int) -> str:
    return ", ".join("".join(word.capitalize() for word in str(flag.name).split("_"))
                     for flag in HvPrivilege if mask & flag)


def main() -> int:
    """Write the page, or say that it is old."""
    if "--check" in sys.argv[1:]:
        if DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == page():
            return 0
        print(f"{DOCUMENT.name} is not what the code says; run `make reference`")
        return 1
    DOCUMENT.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
