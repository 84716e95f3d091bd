"""Memory is compared with what the machine recorded, whatever a program was told."""

import pytest

from hv.lab.errors import LabError
from tests.lab.folders import a_lab, verdict_on

CHECK = '[[checks]]\nname = "it"\nkind = "recorded"\nsymbol = "kept"\nsize = 4\ntruth = {truth}\n'
GUEST = """
start:
    mov eax, 0x40000001
    cpuid
    mov [kept], {what}
    cpuid
    mov ecx, 7
    hlt
.org 0x200000
kept: .long 0
"""
LAST = '{ of = "field", event = "Cpuid", nth = 2, field = "leaf" }'
CASES = {
    "field": (LAST, "eax", True, ""), "constant": (LAST, "ebx", False, "found nothing but zeros"),
    "count": ('{ of = "count", exit = "CPUID" }', "dword ptr 2", True, ""),
    "other-count": ('{ of = "count", exit = "CPUID" }', "dword ptr 3", False,
                    "expected 2 at `kept`, which is what happened, found 3"),
    "register": ('{ of = "register", register = "rcx" }', "dword ptr 7", True, ""),
    "never": ('{ of = "field", event = "Hypercall", field = "code" }', "eax", False, "nothing of the kind recorded"),
}


@pytest.mark.parametrize(("truth", "what", "passes", "says"), CASES.values(), ids=CASES)
def test_memory_is_compared_with_what_happened(tmp_path, truth, what, passes, says):
    what = what.removeprefix("dword ptr ")
    source = GUEST.replace("[kept]", "dword ptr [kept]").format(what=what)
    finding = verdict_on(a_lab(tmp_path, CHECK.replace("{truth}", truth)), source).findings[0]
    assert finding.passed == passes, finding.message
    assert says in finding.message


def test_a_label_that_is_gone_is_named(tmp_path):
    finding = verdict_on(a_lab(tmp_path, CHECK.replace("{truth}", LAST)), "start: hlt\n").findings[0]
    assert "no label `kept` in the program" in finding.message


@pytest.mark.parametrize(("truth", "says"), [
    ('{ of = "serial" }', "Invalid value 'serial'"), ('{ of = "field", event = "Cpu", field = "x" }', "is no event"),
])
def test_a_truth_that_is_no_number_is_refused(tmp_path, truth, says):
    with pytest.raises(LabError, match=says):
        a_lab(tmp_path, CHECK.replace("{truth}", truth))
