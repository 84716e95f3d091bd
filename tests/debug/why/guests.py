"""Sessions over small programs, recorded to their end."""

import pytest

from hv.commands import report
from hv.commands.building import build_any, load_image
from hv.commands.description import MachineDescription, VmDescription, root
from hv.commands.files import find_guest
from hv.debug.errors import DebugError
from hv.debug.session import Session
from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.platform import Machine
from hv.spec.vmcs import VmcsField

HEAD = """
    .include "lib/machine.inc"
    .bits 64
    .org 0x10000
    .entry start
start:
"""


def session_over_code(source, prepare=None, vps=1, apic_virtualization=None, recorded=True, budget="1ms",
                      device=False):
    """A session over the VM `a` that runs *source*; *prepare* may change it before it is recorded, or run."""
    machine = Machine(memory_mib=24, apic_virtualization=apic_virtualization)
    heard = report.watch(machine.trace)
    image = image_of(assemble(HEAD + source.replace(";", "\n"), "test", folders=(guests_folder(),)))
    vm = machine.create_vm("a", image, 4, vps, device)
    if prepare is not None:
        prepare(vm)
    session = Session(machine, [vm], {"a": image}, list(heard.records))
    if budget is not None:
        session.do(f"record {budget}" if recorded else f"until {budget}")
    return session


def session_over_guest(name, recorded=True):
    """A session over one of our guests with a device, recorded to its end."""
    description = MachineDescription([VmDescription(name, find_guest(name), device=True)], [], 64)
    machine, vms = build_any(description)
    session = Session(machine, vms, {name: load_image(description.vms[0].image)}, report.heard())
    session.do("record" if recorded else "continue")
    return session


def session_over_root():
    """A session over the guest root_child in the root partition, recorded to its end."""
    place = find_guest("root_child")
    machine, vms = build_any(root(place, "root_child", 64, 1))
    session = Session(machine, vms, {"root_child": load_image(place)}, report.heard())
    session.do("record")
    return session


def with_control(field, bits, more=None):
    """What sets *bits* of a control field of the VM's VPs, and *more* fields as they are given."""
    def prepare(vm):
        for vp in vm.partition.vps.values():
            vp.vmcs.write(field, vp.vmcs.read(field) | bits)
            for name, value in (more or {}).items():
                vp.vmcs.write(VmcsField[name], value)
    return prepare


def said(session, question="why"):
    """The answer as text; the machine is closed."""
    try:
        return session.do(question)
    finally:
        session.machine.close()


def refused(session, line):
    with pytest.raises(DebugError) as caught:
        session.do(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)
