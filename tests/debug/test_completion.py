"""What Tab offers, without a terminal."""

import pytest

from hv.debug.completion import complete
from hv.debug.prompt import indentation
from hv.debug.registry import COMMANDS
from tests.debug.sessions import session_over


@pytest.fixture(scope="module")
def session():
    session = session_over(("timer", "timer", 1), ("two", "two_vps", 2))
    yield session
    session.machine.close()


def words(session, line):
    return [word.text for word in complete(session, line).words]


def test_the_first_word_is_a_command_or_a_name_of_python(session):
    assert set(COMMANDS) <= set(words(session, ""))
    assert words(session, "ste") == ["step"]
    assert {"vmcs", "vmentry", "vm", "vms", "vp"} <= set(words(session, "v"))
    assert complete(session, "st").typed == 2


def test_a_command_is_offered_with_what_it_does(session):
    found = {word.text: word.meaning for word in complete(session, "pag").words}
    assert found == {"pagewalk": COMMANDS["pagewalk"].summary}


@pytest.mark.parametrize(("line", "some"), [
    ("disasm on_t", "on_timer"), ("disasm rip+on_t", "on_timer"), ("mem gva rs", "rsp"), ("mem g", "gpa"),
    ("until start.w", "start.wait"), ("x ri", "rip"), ("vmcs guest_cr", "guest_cr4"), ("vmcs ev", "events"),
    ("vmentry guest_cr4=3 GUEST_RF", "GUEST_RFLAGS"), ("help pa", "pagewalk"), ("vp two.", "two.1"),
    ("inspect ro", "root"), ("inspect vm/", "vm/two"), ("inspect vm/1/vp/0/syn", "vm/1/vp/0/synic"),
    ("regs f", "fp"), ("brea on_t", "on_timer"),
])
def test_an_argument_is_completed_by_what_it_is(session, line, some):
    assert some in words(session, line)


def test_a_number_is_offered_with_its_value(session):
    assert dict(complete(session, "disasm on_timer").words) == {"on_timer": "0x10072", "on_timer.more": "0x10092"}


@pytest.mark.parametrize("line", ["regs fp ", "nonsense x", "inspect vm/nobody/", "inspect x/y/z", "mem gva rsp 4 ",
                                  "step 5 5", "s!", "!vp.nothing.more", "!1 + ", "b", "help \x1b", "vp.vcpu.tsc.x.y",
                                  "(" * 1000, "é", "exits\t", "machine.close().x"])
def test_what_has_no_completion_is_no_error(session, line):
    complete(session, line)
    assert not session.machine.closed


@pytest.mark.parametrize(("line", "some", "typed"), [
    ("vp.ap", "apic", 2), ("!vp.apic.ti", "timer", 2), ("hex(regs.ra", "rax", 2), ("n = vp.regs.r1", "r15", 2),
    ("machi", "machine", 5), ("!machi", "machine", 5),
])
def test_python_is_completed_by_the_live_objects(session, line, some, typed):
    found = complete(session, line)
    assert some in [word.text for word in found.words]
    assert found.typed == typed


def test_private_parts_are_not_offered(session):
    assert not [word for word in words(session, "vp.") if word.startswith("_")]


@pytest.mark.parametrize(("text", "incomplete"), [
    ("for n in range(3):", True), ("for n in range(3):\n    print(n)", True),
    ("for n in range(3):\n    print(n)\n", False),
    ("n = (1 +", True), ("n = (1 +\n2)", False), ("!if vp:", True), ("step", False), ("step 5", False), ("1 +", False),
    ("def f(x):", True), ("", False), ("'''", True), ("n = )", False), ("nonsense", False), ("\0", False),
    ("(" * 3000, False), ("!while True: pass", False), ("for n in range(3):\n    print(n)\n    ", False),
    ("if n:\n    print(n)\nelse:", True),
])
def test_python_over_several_lines_is_known_by_its_beginning(session, text, incomplete):
    assert session.is_incomplete(text) is incomplete


def test_several_lines_of_python_are_one_program(session):
    assert session.do("def double(n):\n    return 2 * n\n") == ""
    assert session.do("double(21)") == "0x2a"
    assert session.do("for vp_number in range(3):\n    newest = double(vp_number)\n") == ""
    assert session.do("newest") == "4"


@pytest.mark.parametrize(("line", "blanks"), [("for x in y:", 4), ("    if x:  ", 8), ("    a = 1", 4), ("", 0),
                                              ("   ", 0)])
def test_the_next_line_is_indented_as_python_wants_it(line, blanks):
    assert indentation(line) == " " * blanks
