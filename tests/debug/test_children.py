"""Children that a root of machine code has made are looked at, stepped and changed as any VM."""

import pytest

from hv.commands.building import build_any, load_image
from hv.commands.description import root
from hv.commands.files import find_guest
from hv.debug.session import Session
from tests.debug.sessions import refused


@pytest.fixture
def made():
    """Root's program has made its child, which asks it for a port."""
    place = find_guest("root_child")
    machine, vms = build_any(root(place, "root_child", 64, 1))
    session = Session(machine, vms, {"root_child": load_image(place)})
    session.do("stop event VmExit if in_partition == 2")
    session.do("continue")
    session.do("delete stops")
    yield session
    machine.close()


def test_the_stop_looks_at_the_child(made):
    assert made.prompt.startswith("child2.0 ")
    assert made.do("vp").splitlines() == ["  root_child.0  runs", "* child2.0  waits for its parent"]
    assert made.do("partitions").splitlines()[1] == "2  child2       active  vps 1"


@pytest.mark.parametrize(("line", "part"), [
    ("regs", "16 bit"), ("disasm rip 1", "out dx, al"), ("map", "gpa 0x0000008000..0x0000008fff"),
    ("vmcs exit", "IO_INSTRUCTION"), ("inspect vm/child2/state", "active"), ("inspect partition/2/vps", "0"),
    ("apic", "lvt/LVT_TIMER"), ("serial", "nothing yet"), ("vmentry", "VM entry"), ("stack 2", "0000000000008ffe"),
])
def test_the_child_is_looked_at(made, line, part):
    assert part in made.do(line)


def test_one_looks_at_root_and_at_the_child_in_turn(made):
    made.do("vp root_child.0")
    assert "64 bit" in made.do("regs")
    made.do("vp child2.0")
    assert "16 bit" in made.do("regs")


def test_a_breakpoint_in_the_child_is_met_and_it_is_stepped_from_there(made):
    made.do("break 0x807a")
    assert made.do("continue").startswith("breakpoint at 0x807a")
    assert made.do("step").startswith("=> 00008074")


def test_the_childs_root_is_its_parent_in_what_a_parent_does(made):
    assert made.do("set rbx 7").splitlines()[0] == "rbx  0 -> 7"
    assert made.do("property CPU_CAP 5") == "CPU_CAP  0 -> 5"
    assert made.do("nmi").startswith("NMI pending  False -> True")


def test_root_has_no_parent_that_could_do_anything_to_it(made):
    made.do("vp root_child.0")
    assert "root has no parent that could do this" in refused(made, "nmi")
    assert made.do("set r15 7").startswith("r15")


def test_a_child_that_was_deleted_is_gone(made):
    assert made.do("continue").endswith("child2 has no vp 0 any more")
    for line in ("regs", "map", "vp child2.0", "step", "set rax 1"):
        assert "\n" not in refused(made, line)
    assert made.do("vp").splitlines() == ["  root_child.0  ended: shutdown"]
    made.do("vp root_child.0")
    assert "64 bit" in made.do("regs")
