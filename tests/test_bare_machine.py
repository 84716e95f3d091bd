"""A machine without a hypervisor of ours: its program runs, becomes one, is told its mistakes, and always ends."""

from collections.abc import Callable
from typing import Any

import pytest

from hv.bare_machine import BareMachine
from hv.image.errors import ImageError
from hv.image.load import load
from hv.spec.exits import ExitReason
from hv.trace.events import VmEntry, VmEntryRefused, VmxFailed
from hv.vmx.exit import VmExit
from tests.lab.exercises import LABS

SOLUTION = LABS / "16_vm_entry/solution/vm_entry.asm"
HEAD = '.include "lib/machine.inc"\n.include "lib/vmcs.inc"\n.bits 64\n.org 0x10000\n.entry start\nstart:\n'
TAIL = '\n.include "lib/vmx64.inc"\n.include "lib/idt64.inc"\n.include "lib/serial64.inc"\n'
Run = Callable[..., tuple[BareMachine, list[Any]]]


@pytest.fixture
def run(tmp_path):
    """Runs a program, or the solution of the lab with some words replaced; the machine, and what was recorded."""
    machines = []

    def go(source: str = "", ticks: int = 400_000, **changes: str) -> tuple[BareMachine, list[Any]]:
        text = HEAD + source + TAIL if source else SOLUTION.read_text(encoding="utf-8")
        for old, new in changes.items():
            field = old.upper()
            assert field in text
            text = text.replace(f".quad {field},", f".quad {field}, {new} ;", 1)
        place = tmp_path / "program.asm"
        place.write_text(text, encoding="utf-8")
        machine, events = BareMachine(load(place)), []
        machines.append(machine)
        machine.trace.listen(lambda record: events.append(record.event))
        machine.run(ticks)
        machine.end_budget()
        return machine, events

    yield go
    for machine in machines:
        machine.close()


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_a_program_prints_and_switches_off(run):
    machine, _ = run("lea rsi, [rip + text]\ncall print\njmp power_off\ntext: .asciz \"nobody below\\n\"")
    assert (machine.guest.ended, machine.guest.serial) == ("shutdown", "nobody below\n")


def test_it_enters_a_guest_and_is_told_of_its_exit(run):
    machine, events = run()
    assert machine.guest.ended == "halt"
    assert len(of(VmEntry, events)) == 1
    assert [exit.reason for exit in of(VmExit, events)] == [ExitReason.CPUID]
    assert not of(VmxFailed, events)


@pytest.mark.parametrize(("change", "rule", "error", "reason"), [
    ({"pin_based_controls": "0"}, "pin-based-controls", 7, None),
    ({"host_cr4": "0x620"}, "host-cr4-fixed-bits", 8, None),
    ({"guest_rflags": "0"}, "guest-rflags-bit-1", None, ExitReason.ENTRY_FAILURE_GUEST_STATE)])
def test_a_refused_entry_names_its_rule(run, change, rule, error, reason):
    """SDM "VM-Entry Failures": VMfail 7 or 8 for controls and host, a VM exit for the guest."""
    machine, events = run(**change)
    assert [event.rule for event in of(VmEntryRefused, events)] == [rule]
    assert [event.error for event in of(VmxFailed, events)] == ([error] if error else [])
    assert [exit.reason for exit in of(VmExit, events)] == ([reason] if reason else [])
    assert not of(VmEntry, events)
    assert len(machine.refused) == 1


def test_without_vmxon_a_vmx_instruction_is_undefined(run):
    """SDM "VMX Instruction Reference": #UD outside VMX operation; nobody handles it here."""
    machine, _ = run("vmlaunch\nhlt")
    assert machine.guest.ended == "triple-fault"


def test_vmlaunch_without_a_vmcs_is_vmfail_invalid(run):
    _, events = run("call vmx_on\nvmclear qword ptr [rip + page]\nvmlaunch\nhlt\n.align 8\npage: .quad VMCS_PAGE")
    assert of(VmxFailed, events) == [VmxFailed("vmlaunch", 0)]


def test_a_vmxon_region_without_a_revision_is_vmfail_invalid(run):
    _, events = run("mov rax, cr4\nor eax, 1 << 13\nmov cr4, rax\nmov ecx, 0x3A\nmov eax, 5\nxor edx, edx\nwrmsr\n"
                    "vmxon qword ptr [rip + page]\nhlt\n.align 8\npage: .quad VMCS_PAGE")
    assert of(VmxFailed, events) == [VmxFailed("vmxon", 0)]


def test_fields_that_are_not_there_are_said(run):
    """VM-instruction error 12."""
    _, events = run("call vmx_on\nmov eax, 0x7FFE\nvmwrite rax, rax\nhlt")
    assert of(VmxFailed, events) == [VmxFailed("vmwrite", 12)]


@pytest.mark.parametrize(("source", "ended"), [
    ("jmp start", "budget"),
    ("call vmx_on\nagain: vmlaunch\njmp again", "budget"),
    ("cpuid\njmp start", "budget"),
    ("mov edi, 6\nmov eax, offset start\ncall idt_set\ncall idt_load\nud2", "budget"),
    ("mov rsp, 0\npush rax\nhlt", "triple-fault"),
    ("mov rax, 0xFEE00000\nmov ebx, [rax]\nmov [rax], ebx\nhlt", "halt"),
    ("mov dword ptr [0x3FFF000], 1\nhlt", "halt"),
    ("mov edi, 0x3FFF000\njmp rdi", "triple-fault"),
    ("xor eax, eax\nmov ecx, eax\nxsetbv\nhlt", "triple-fault"),
    ("mov ecx, 0x40000000\nrdmsr\nhlt", "triple-fault"),
    ("wbinvd\ninvd\nhlt", "halt"), ("int 3\nhlt", "triple-fault"),
    ("mov dx, 0x1234\nin al, dx\nrep outsb\nhlt", "halt"),
], ids=lambda value: value.replace("\n", "; ") if isinstance(value, str) else None)
def test_whatever_it_does_it_ends(run, source, ended):
    assert run(source)[0].guest.ended == ended


@pytest.mark.parametrize(("change", "ended"), [
    ({"primary_proc_controls": "0x04006172"}, "halt"),                  # HLT does not exit: its guest sleeps for ever
    ({"guest_rip": "0x3FFF000"}, "halt"), ({"guest_rip": "start"}, "halt"), ({"host_rip": "0"}, "triple-fault"),
    ({"host_cr3": "0x300000"}, "triple-fault"), ({"host_rip": "start"}, "triple-fault")],
    ids=["sleeps", "nowhere", "hypervisor-as-guest", "no-exit-handler", "no-tables", "locked-feature-control"])
def test_whatever_its_guest_does_it_ends(run, change, ended):
    if "primary_proc_controls" in change:
        change = {**change, "guest_rip": "guest + 20"}
    machine, _ = run(**change)
    assert machine.guest.ended == ended


def test_two_runs_are_the_same_run(run):
    first, second = run(), run()
    assert [event.inspect() for event in first[1]] == [event.inspect() for event in second[1]]
    assert first[0].clock.tsc == second[0].clock.tsc


def test_a_program_that_does_not_fit_is_refused(tmp_path):
    place = tmp_path / "program.asm"
    place.write_text(".bits 64\n.org 0x1000000\nhlt\n", encoding="utf-8")
    with pytest.raises(ImageError, match="reaches up to"):
        BareMachine(load(place))
