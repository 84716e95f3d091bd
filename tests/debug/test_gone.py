"""A VM whose partition is finalized or deleted behind its worker's back: each command says so, in one line."""

import pytest

from hv.replay.changes import ParentCall
from tests.debug.sessions import refused

COMMANDS = ("regs", "step", "set rax 5", "inject UD", "nmi", "mask sint2", "property", "protect 0x1000 r--", "map",
            "disasm", "stack", "apic", "vmcs", "vmentry", "vp timer.0", "write gva rsp u8 1", "rdmsr IA32_EFER")


@pytest.fixture(params=["finalized", "deleted"])
def gone(timer, request):
    if request.param == "finalized":
        timer.change(ParentCall(1, "FINALIZE_PARTITION", timer.vm.partition_id.to_bytes(8, "little")))
    else:
        timer.machine.destroy_vm(timer.vm)
    return timer


@pytest.mark.parametrize("line", COMMANDS)
def test_what_is_about_it_is_refused(gone, line):
    refused(gone, line)


def test_what_is_about_all_is_answered(gone):
    assert gone.do("vp") == "no VP is left"
    assert "root" in gone.do("partitions")
    assert gone.do("inspect").splitlines()
    assert "map of" in gone.do("export map a.mmd")
    gone.do("break 0x10000")
    assert "ended" in gone.do("continue")
    assert gone.prompt == "timer.0 gone> "
