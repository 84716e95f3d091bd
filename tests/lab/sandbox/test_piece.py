"""A piece answers calls with plain data, and whatever else it does is an outcome in one line."""

import os
from pathlib import Path

import pytest

from hv.lab.errors import LabError
from hv.lab.sandbox.limits import Limits
from hv.lab.sandbox.outcome import Ending
from hv.lab.sandbox.piece import Piece, missing, protections, require

SMALL = Limits(steps=20_000, cpu_seconds=1, wall_seconds=10, memory_mib=128, printed_bytes=2048)


def called(source, function="f", *arguments, doors=None, limits=SMALL):
    with Piece(source, limits) as piece:
        return piece.call(function, *arguments, doors=doors)


def test_a_piece_gets_and_gives_plain_data():
    value = [None, True, -(1 << 63), (1 << 64) - 1, 1.5, "text", b"\0bytes", {"key": [1]}]
    assert called("def f(x): return x", "f", value).value == value


def test_a_piece_may_use_the_standard_library():
    source = "import struct, collections, enum, dataclasses, bisect, decimal, random, statistics\n" \
             "def f(x): return struct.pack('<I', x)"
    assert called(source, "f", 7).value == b"\7\0\0\0"


def test_a_piece_remembers_from_call_to_call():
    with Piece("seen = []\ndef f(x):\n    seen.append(x)\n    return seen") as piece:
        assert [piece.call("f", n).value for n in (1, 2)] == [[1], [1, 2]]


def test_a_door_is_a_function_of_ours_that_the_piece_calls():
    memory = {0x1000: 0x2007, 0x2000: 42}
    source = "def walk(spa, read):\n    return read(read(spa) & ~0xFFF)"
    assert called(source, "walk", 0x1000, doors={"read": memory.__getitem__}).value == 42


def test_a_door_that_refuses_raises_inside_the_piece():
    def read(spa):
        raise ValueError(f"no memory at {spa:#x}")

    source = "def f(read):\n    try: return read(9)\n    except ValueError as error: return str(error)"
    assert called(source, doors={"read": read}).value == "no memory at 0x9"
    assert called("def f(read):\n    return read()", doors={"read": read}).ending is Ending.RAISED


def test_a_mistake_of_ours_in_a_door_is_not_the_learners():
    def broken():
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        called("def f(door): return door()", doors={"door": broken})


def test_arguments_that_are_no_plain_data_are_the_callers_mistake():
    with pytest.raises(LabError, match="cannot be sent: `object` is no plain data"):
        called("def f(x): return x", "f", object())


WORDS = {
    "no-python": ("def f(:\n", Ending.WRONG, "piece.py:1:7: invalid syntax"),
    "nul": ("a = 1\0", Ending.WRONG, "null bytes"),
    "surrogate": ("a = '\udc80'", Ending.WRONG, "piece.py: "),
    "deep": ("x = " + "(" * 5000, Ending.WRONG, "piece.py"),
    "no-function": ("g = 1", Ending.WRONG, "piece.py: there is no function `f`"),
    "no-callable": ("f = 1", Ending.WRONG, "there is no function `f`"),
    "too-few": ("def f(x): return x", Ending.RAISED, "TypeError: f() missing 1 required positional argument: 'x'"),
    "raises": ("def f():\n    g()\ndef g():\n    return 1 / 0", Ending.RAISED, "piece.py:4: raised ZeroDivisionError"),
    "recursion": ("def f():\n    return f()", Ending.RAISED, "raised RecursionError"),
    "object": ("def f(): return object()", Ending.WRONG, "answered `object` is no plain data"),
    "wide": ("def f(): return 1 << 64", Ending.WRONG, "answered an integer of more than 64 bits"),
    "in-itself": ("def f():\n    a = []\n    a.append(a)\n    return a", Ending.WRONG, "nested too deep"),
    "large": ("def f(): return bytes(1 << 21)", Ending.WRONG, "bytes; at most 1048576 are taken"),
    "terminal": ("def f(): raise ValueError('\\x1b[2J')", Ending.RAISED, "ValueError: \\x1b[2J"),
    "own-str": ("class E(Exception):\n    def __str__(self): raise self\ndef f(): raise E", Ending.RAISED, "raised E"),
}


@pytest.mark.parametrize(("source", "ending", "says"), WORDS.values(), ids=WORDS)
def test_a_mistake_is_told_in_one_line(source, ending, says):
    outcome = called(source)
    assert outcome.ending is ending
    assert says in outcome.message
    assert outcome.message.isprintable()


def test_what_is_printed_comes_beside_the_answer():
    outcome = called("import sys\ndef f():\n    print('one')\n    print('two', file=sys.stderr)\n    return 1")
    assert (outcome.value, outcome.printed) == (1, "one\ntwo\n")


def test_a_call_after_a_bad_end_starts_anew():
    with Piece("import os\nseen = []\ndef f():\n    seen.append(1)\n    return seen\ndef g(): os._exit(0)") as piece:
        assert [piece.call(name).value for name in ("f", "f", "g", "f")] == [[1], [1, 1], None, [1]]


def test_nothing_of_the_callers_environment_is_there(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    outcome = called("import os, sys\ndef f(): return [dict(os.environ), sys.argv[0], os.listdir('.')]")
    environment, program, files = outcome.value
    assert sorted(set(environment) - {"PWD", "LC_CTYPE"}) == ["HOME", "LANG", "PATH", "PYTHONHASHSEED", "TMPDIR", "TZ"]
    assert (program, files) == ("-c", [])


def test_a_piece_may_write_in_its_scratch_folder_which_then_is_gone():
    source = "import os\ndef f():\n    open('a', 'w').write('x')\n    return [os.getcwd(), open('a').read()]"
    with Piece(source) as piece:
        folder, read = piece.call("f").value
        assert read == "x"
        assert Path(folder, "a").is_file()
    assert not Path(folder).exists()


def test_protections_are_what_the_process_reported():
    on = protections()
    assert "rlimits" in on
    assert not set(on) & set(missing(on))


REFUSED = {"nothing": [], "limits-alone": ["rlimits"], "no-filter": ["rlimits", "landlock"],
           "bubble-without-limits": ["bubblewrap"]}


@pytest.mark.parametrize("on", REFUSED.values(), ids=REFUSED)
def test_a_host_that_cannot_confine_is_refused_when_that_is_required(on):
    with pytest.raises(LabError, match="cannot confine a learner's Python: no "):
        require(on)


def test_a_host_that_can_is_not():
    require(["rlimits", "landlock", "seccomp"])
    require(["rlimits", "bubblewrap"])


def test_a_closed_piece_leaves_no_descriptor_behind():
    with Piece("def f(): return 1") as piece:
        piece.call("f")
    before = sorted(os.listdir("/proc/self/fd"))
    with Piece("def f(): return 1") as piece:
        piece.call("f")
    assert sorted(os.listdir("/proc/self/fd")) == before
