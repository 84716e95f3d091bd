"""An exercise that does not keep what it promises is found out, claim by claim."""

import shutil

import pytest

from hv.lab.exercise import read
from hv.lab.verify import verify
from tests.lab.exercises import LABS

HALTED, OTHER = "start: hlt\n", "start: jmp start\n"
LAB = """
title = "t"
kind = "guest"
file = "a.asm"
starter_says = "found budget"
hints = ["h", "i", "j"]
[limits]
ticks = 100_000
[[checks]]
name = "it halts"
kind = "ended"
how = "halt"
points = 3
[[wrong]]
file = "crash.asm"
says = "found triple-fault"
"""
GOOD = {"lab.toml": LAB, "README.md": "# t\n\n## The task\n\nHalt.\n\n## More\n", "why.md": "So.\n",
        "starter.asm": OTHER, "solution/a.asm": HALTED, "wrong/crash.asm": "start: ud2\n"}


def against(tmp_path, **changed):
    """What speaks against an exercise, the files in *changed* being other ones; None = not there."""
    for name, text in {**GOOD, **changed}.items():
        place = tmp_path / "01_it" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            place.write_text(text)
    return {proof.claim: proof.against for proof in verify(read(tmp_path / "01_it"))}


def test_every_claim_is_told_also_when_nothing_speaks_against_it(tmp_path):
    assert against(tmp_path) == {
        "its pages are there": "", "solution/a.asm earns all 3 points": "",
        "starter.asm fails, and is told: found budget": "",
        "wrong/crash.asm fails, and is told: found triple-fault": "",
        "each wrong answer has a message of its own": ""}


@pytest.mark.parametrize(("file", "text", "claim", "said"), [
    ("README.md", None, "its pages are there", "01_it/README.md cannot be read: No such file"),
    ("why.md", " \n", "its pages are there", "empty: why.md"),
    ("README.md", "# t\n\nHalt.\n", "its pages are there", "empty: the section `## The task` of README.md"),
    ("README.md", "# t\n\n## The task\n\n## More\n", "its pages are there", "the section `## The task`"),
    ("solution/a.asm", OTHER, "solution/a.asm earns all 3 points", "it halts: expected the guest to end by halt"),
    ("solution/a.asm", "start: hlp\n", "solution/a.asm earns all 3 points", "a.asm:1:8: `hlp`"),
    ("starter.asm", HALTED, "starter.asm fails, and is told: found budget", "it passes"),
    ("starter.asm", "start: ud2\n", "starter.asm fails, and is told: found budget", "it is told: it halts: expected"),
    ("wrong/crash.asm", HALTED, "wrong/crash.asm fails, and is told: found triple-fault", "it passes"),
    ("lab.toml", LAB.replace("found triple-fault", "found budget"), "each wrong answer has a message of its own",
     "told twice: found budget"),
])
def test_a_promise_that_is_not_kept_is_told(tmp_path, file, text, claim, said):
    assert said in against(tmp_path, **{file: text})[claim]


def test_a_page_that_is_no_text_is_told(tmp_path):
    shutil.copytree(LABS / "01_first_exit", tmp_path / "01_first_exit")
    (tmp_path / "01_first_exit" / "why.md").write_bytes(b"\xff")
    assert "why.md cannot be read: it is not UTF-8" in next(verify(read(tmp_path / "01_first_exit"))).against
