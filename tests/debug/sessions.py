"""Sessions over real guests, for the tests of this room."""

import pytest

from hv.commands import report
from hv.commands.building import build, load_image
from hv.commands.description import MachineDescription, VmDescription
from hv.commands.files import find_guest
from hv.debug.errors import DebugError
from hv.debug.session import Session


def session_over(*vms, connections=(), device=False):
    described = [VmDescription(name, find_guest(guest), vps=vps, device=device) for name, guest, vps in vms]
    description = MachineDescription(described, list(connections), 64)
    machine, made = build(description)
    return Session(machine, made, {vm.name: load_image(vm.image) for vm in description.vms}, report.heard())


def refused(session, line):
    with pytest.raises(DebugError) as caught:
        session.do(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)
