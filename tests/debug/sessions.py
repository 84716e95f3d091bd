"""Sessions over real guests, for the tests of this room."""

import pytest

from hv.commands import report
from hv.commands.building import build, images_of
from hv.commands.description import MachineDescription, VmDescription
from hv.commands.files import find_guest
from hv.commands.replay import kept_machine
from hv.debug.errors import DebugError
from hv.debug.session import Session


def session_over(*vms, connections=(), device=False, pc=False):
    described = [VmDescription(name, find_guest(guest), vps=vps, device=device, pc=pc) for name, guest, vps in vms]
    description = MachineDescription(described, list(connections), 64)
    machine, made = build(description)
    images = images_of(description)
    names = [vm.name for vm in description.vms]
    session = Session(machine, made, dict(zip(names, images, strict=True)), report.heard())
    session.made_from = lambda: kept_machine(description, images)
    return session


def refused(session, line):
    with pytest.raises(DebugError) as caught:
        session.do(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)
