"""machine.toml: every mistake in it is named in one line."""

from pathlib import Path

import pytest

from hv.commands import description
from hv.commands.errors import CommandError
from hv.platform import LARGEST_MIB

TWO = """
[[vm]]
name = "b"
image = "receiver.asm"
[[vm]]
name = "a"
image = "hypercaller.asm"
memory_mib = 32
vps = 2
device = true
other = "b"
[[connection]]
from = "a"
to = "b"
id = 3
sint = 4
"""


def described(tmp_path, text):
    place = tmp_path / "machine.toml"
    place.write_text(text)
    return description.read(place)


@pytest.mark.parametrize("name", ["\\u001B[2J", "a\\nb", "\\u202E", "x" * 61])
def test_a_name_that_a_terminal_would_obey_is_refused(tmp_path, name):
    with pytest.raises(CommandError) as caught:
        described(tmp_path, f'[[vm]]\nname = "{name}"\nimage = "hello"\n')
    assert "machine.toml: vm 1: `name` is" in str(caught.value)
    assert "expected 1..60 printable characters" in str(caught.value)


def test_a_description_becomes_vms_and_connections(tmp_path):
    machine = described(tmp_path, TWO)
    b, a = machine.vms
    assert (b.name, b.memory_mib, b.vps, b.devices, b.other) == ("b", 16, 1, (), "")
    assert (a.image.name, a.memory_mib, a.vps, a.devices, a.other) == ("hypercaller.asm", 32, 2, ("dma",), "b")
    assert machine.connections == [description.ConnectionDescription("a", "b", 3, sint=4)]
    assert machine.memory_mib == description.DEFAULT_MACHINE_MIB


@pytest.mark.parametrize(("value", "devices"), [
    ("false", ()), ("true", ("dma",)), ('"ring"', ("ring",)), ('["ring", "dma", "ring"]', ("ring", "dma", "ring"))])
def test_a_vm_has_devices_by_kind(tmp_path, value, devices):
    vm = described(tmp_path, f'[[vm]]\nname = "x"\nimage = "hello"\npc = true\ndevice = {value}\n').vms[0]
    assert (vm.devices, vm.pc) == (devices, True)


@pytest.mark.parametrize(("value", "complaint"), [
    ('"disk"', "there is no device 'disk'"), ('["dma", 3]', "there is no device 3"),
    ("2", "`device` is an integer; expected true or false or a string or a list")])
def test_a_device_of_no_kind(tmp_path, value, complaint):
    with pytest.raises(CommandError, match=complaint):
        described(tmp_path, f'[[vm]]\nname = "x"\nimage = "hello"\ndevice = {value}\n')


def test_an_image_beside_the_description_wins_over_our_guest(tmp_path):
    (tmp_path / "hello.asm").write_text("hlt\n")
    machine = described(tmp_path, '[[vm]]\nname = "x"\nimage = "hello.asm"\n')
    assert machine.vms[0].image == tmp_path / "hello.asm"


def test_the_machine_grows_with_its_vms(tmp_path):
    machine = described(tmp_path, '[[vm]]\nname = "x"\nimage = "hello"\nmemory_mib = 512\n')
    assert machine.memory_mib == 512 + description.HYPERVISOR_MIB


ONE = '[[vm]]\nname = "x"\nimage = "hello"\n'


@pytest.mark.parametrize(("text", "part"), [
    pytest.param("[[vm", "machine.toml is no TOML", id="syntax"),
    pytest.param("", "`vm` is missing", id="nothing"),
    pytest.param("vm = []", "describes no vm", id="no-vm"),
    pytest.param("vm = [1]", "expected a list of tables; write [[vm]]", id="vm-is-no-table"),
    pytest.param("vm = 3", "`vm` is an integer; expected a list", id="vm-is-a-number"),
    pytest.param(ONE + "speed = 3", "vm 1: unknown key `speed`; expected name, image", id="unknown-key"),
    pytest.param('colour = "red"\n' + ONE, "unknown key `colour`; expected memory_mib, vm", id="unknown-top"),
    pytest.param(ONE + 'vps = "two"', "`vps` is a string; expected an integer; found 'two'", id="wrong-type"),
    pytest.param(ONE + "vps = true", "`vps` is true or false; expected an integer", id="bool-is-no-integer"),
    pytest.param(ONE + "vps = 0", "vm 1: vps is 0; expected 1..64", id="no-vps"),
    pytest.param(ONE + "memory_mib = 0", "vm 1: memory_mib is 0", id="no-memory"),
    pytest.param("memory_mib = 17\n" + ONE, "memory_mib is 17; expected 32..3840", id="machine-too-small"),
    pytest.param('[[vm]]\nname = "x"\n', "vm 1: `image` is missing", id="no-image"),
    pytest.param('[[vm]]\nname = " "\nimage = "hello"\n', "expected 1..60 printable characters", id="empty-name"),
    pytest.param('[[vm]]\nname = "x"\nimage = "no.asm"\n', "vm 1: no.asm does not exist", id="no-file"),
    pytest.param(ONE + ONE, "two VMs are called `x`", id="same-name"),
    pytest.param(ONE + 'other = "y"', "`other` of x is `y`; expected a VM described before it", id="other"),
    pytest.param(ONE + '[[connection]]\nfrom = "x"\n', "connection 1: `to` is missing", id="half-a-connection"),
    pytest.param(ONE + '[[connection]]\nfrom = "x"\nto = "z"\n', "`to` names `z`; expected one of x", id="unknown-vm"),
    pytest.param(ONE + '[[connection]]\nfrom = "x"\nto = "x"\nsint = 16\n', "sint is 16; expected 1..15", id="sint"),
    *(pytest.param(ONE + '[[connection]]\nfrom = "x"\nto = "x"\n' + text, part, id=name) for name, text, part in (
        ("kind", 'kind = "doorbell"', "`kind` is `doorbell`; expected one of message, event, monitor"),
        ("key-of-another-kind", 'kind = "event"\ngpa = 0', "connection 1 (event): unknown key `gpa`"),
        ("monitor-without-a-page", 'kind = "monitor"', "connection 1 (monitor): `gpa` is missing"),
        ("misaligned-page", 'kind = "monitor"\ngpa = 8', "`gpa` is 0x8; expected a multiple of 0x1000"),
        ("page-of-the-apic", 'kind = "monitor"\ngpa = 0xFEE00000', "gpa is 0xfee00000; expected 0..0x7ffff000"),
        ("two-pages-at-one-place", 'kind = "monitor"\ngpa = 0x300000\n[[connection]]\nfrom = "x"\nto = "x"\nid = 2\n'
         'kind = "monitor"\ngpa = 0x300000', "the monitor pages of connections 1 and 2 are both at 0x300000 of x"),
        ("too-many-flags", 'kind = "event"\nbase = 2040\nflags = 9', "flags is 9; expected 1..8"))),
    pytest.param(ONE + 'memory_mib = 2048\n' + ONE.replace('"x"', '"y"') + "memory_mib = 2048\n",
                 "its VMs need a machine of 4112 MiB; 3840 is the most", id="machine-too-large"),
    pytest.param(ONE + 2 * '[[connection]]\nfrom = "x"\nto = "x"\n', "from x have the id 1", id="same-id"),
    pytest.param('[[vm]]\nname = "x"\nimage = ""\n', "vm 1: `` is no file name", id="empty-image"),
    pytest.param(f'[[vm]]\nname = "x"\nimage = "{"a" * 5000}"\n', "read: File name too long", id="long-image"),
    pytest.param("memory_mib = " + "9" * 5000 + "\n" + ONE, "a number too long", id="too-many-digits"),
    pytest.param("a = " + "[" * 5000, "lists too deep", id="too-many-brackets"),
    pytest.param("#" * (1 << 20) + "\n", "larger than 1 MiB", id="too-large"),
])
def test_a_wrong_description_is_refused_in_one_line(text, part, tmp_path):
    with pytest.raises(CommandError) as caught:
        described(tmp_path, text)
    assert part in str(caught.value)


def test_a_description_may_begin_with_a_byte_order_mark(tmp_path):
    assert described(tmp_path, "\ufeff" + ONE).vms[0].name == "x"


def test_the_largest_machine_can_be_made():
    assert description.LARGEST_MACHINE_MIB == LARGEST_MIB


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "machine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="no UTF-8"):
        description.read(tmp_path / "machine.toml")


def test_the_description_in_the_documentation_is_a_valid_one(tmp_path):
    guide = Path(__file__).parents[2] / "docs" / "guests.md"
    text = guide.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    machine = described(tmp_path, text)
    assert [vm.name for vm in machine.vms] == ["receiver", "sender"]
    assert machine.connections[0].sender == "sender"
