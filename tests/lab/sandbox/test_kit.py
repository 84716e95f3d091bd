"""Attacks from inside a handler: what its kit shows it, and what it sends back in place of an answer."""

import pytest

from hv.lab.sandbox.kit import GENERAL
from hv.lab.sandbox.limits import Limits
from hv.lab.sandbox.outcome import Ending
from hv.lab.sandbox.piece import Piece

SMALL = Limits(steps=5000, asks=20, cpu_seconds=1, wall_seconds=10, memory_mib=128)
VP = {"index": 0, "general": dict.fromkeys(GENERAL, 7), "fixed": {"rip": 0x1000, "cr3": 0x71000}}
EXIT = {"reason": "CPUID", "qualification": 0, "instruction_length": 2}


def handled(body, doors=None):
    """What comes of a handler with this *body*."""
    source = "import sys\nfrom hypervisor import *\ndef handle(vp, exit):\n" + \
        "".join(f"    {line}\n" for line in body.split("\n"))
    with Piece(source, SMALL, bubblewrap=False) as piece:
        return piece.call("handle", VP, EXIT, kit="exit", doors=doors or {})


def test_a_verdict_and_registers_are_plain_data():
    assert handled("vp.regs.r9d = 1\nreturn Inject(13, 0)").value == [["Inject", 13, 0, None],
                                                                    {**VP["general"], "r9": 1}]


def test_a_hypercall_gets_its_fields_and_doors():
    with Piece("def f(call): return call.control + call.read(1)", SMALL, bubblewrap=False) as piece:
        assert piece.call("f", {"control": 40}, kit="hypercall", doors={"read": lambda gpa: gpa + 1}).value == 42


EVIL = {
    "recursion": ("return handle(vp, exit)", Ending.RAISED, "RecursionError"),
    "loop": ("while True: pass", Ending.STEPS, "still running after 5000 lines"),
    "catches-all": ("while True:\n    try: vp.regs.nowhere\n    except BaseException: pass", Ending.STEPS,
                    "still running"),
    "nested": ("a = []\nfor _ in range(3000): a = [a]\nreturn Halt(a)", Ending.WRONG, "nested too deep"),
    "holds-itself": ("a = []\na.append(a)\nreturn Inject(a)", Ending.WRONG, "nested too deep"),
    "huge": ("return Inject(1 << 999)", Ending.WRONG, "more than 64 bits"),
    "huge-text": ("return Halt('x' * (2 << 20))", Ending.WRONG, "at most"),
    "object": ("return Halt(object())", Ending.WRONG, "`object` is no plain data"),
    "index": ("class A(int):\n    def __index__(self): raise SystemExit\nvp.regs.rax = A(1)", Ending.RAISED, "found A"),
    "equal": ("class A:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
              "vp.regs.general[A()] = 1\nreturn Advance()", Ending.WRONG, "answered"),
    "exit": ("sys.exit(0)", Ending.RAISED, "SystemExit: 0"),
    "fault-text": ("raise GuestFault([[]], {}, ())", Ending.RETURNED, ""),
    "fault-class": ("class F(GuestFault):\n    def __init__(self): self.args = (1, 2, 3, 4, 5)\nraise F()",
                    Ending.RAISED, "TypeError"),
    "door": ("vp.secret()", Ending.RAISED, "has no attribute 'secret'"),
    "door-flood": ("while True: vp.door()", Ending.STEPS, "asked more than 20 times"),
    "door-huge": ("vp.door(1 << 999)", Ending.RAISED, "more than 64 bits"),
    "door-object": ("vp.door(vp)", Ending.RAISED, "no plain data"),
    "door-many": ("vp.door(*range(99))", Ending.RAISED, "takes"),
    "module": ("import hv.lab.handlers", Ending.RAISED, "No module named 'hv'"),
}


@pytest.mark.parametrize(("body", "ending", "says"), EVIL.values(), ids=EVIL)
def test_an_attack_from_a_handler_is_an_outcome(body, ending, says):
    def door(leaf=0):
        return leaf

    outcome = handled(body, {"door": door})
    assert outcome.ending is ending, outcome
    assert says in outcome.message


def test_a_verdict_of_a_class_of_its_own_is_no_verdict():
    source = "class Mine(Advance):\n    def __iter__(self): raise SystemExit\nreturn Mine()"
    assert handled(source).value[0] == ["no verdict", "a value of type Mine"]


def test_registers_that_are_read_only_stay_so():
    for name in ("rip", "cr3", "rflags", "general", "fixed", "nowhere"):
        assert handled(f"vp.regs.{name} = 1").ending is Ending.RAISED


def test_a_thread_that_asks_on_is_the_next_answers_trouble_only():
    """What a piece leaves behind can spoil its own answers; the caller gets an outcome each time."""
    source = "import threading\ndef asks(door):\n    for _ in range(99): door()\n" \
             "def f(door):\n    threading.Thread(target=asks, args=(door,)).start()\n    return 1\n"
    with Piece(source, SMALL, bubblewrap=False) as piece:
        for _ in range(3):
            assert piece.call("f", doors={"door": lambda: 2}).ending in Ending
    with Piece("def f(): return 1", SMALL, bubblewrap=False) as honest:
        assert honest.call("f").value == 1
