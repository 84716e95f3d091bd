"""docs/first_hour.md: a learner who types what it says comes where it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hv.commands.building import load_image
from hv.debug.session import Session
from hv.platform import Machine
from tests.lab.exercises import SOLUTION

PAGE = (Path(__file__).parents[2] / "docs/first_hour.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|asm|repl)\n(.*?)```", PAGE, re.S)
HERE = "    ; your instructions go here\n"


class Learner:
    """Somebody with an empty folder and the program."""

    def __init__(self, home):
        self.folder, self.home, self.said = home, home, []
        (home / "hv").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hv "$@"\n')
        (home / "hv").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{home}:{os.environ['PATH']}", "NO_COLOR": "1",
                            "HVLAB_STATE": str(home / "state"), "PYTHONPATH": str(Path(__file__).parents[2])}

    def types(self, command):
        if command.startswith("cd "):
            self.folder = self.folder / command.removeprefix("cd ")
            return
        done = subprocess.run(["sh", "-c", command], cwd=self.folder, env=self.environment, capture_output=True,
                              text=True, check=False)
        self.said.append((command, done.returncode, done.stdout + done.stderr))

    def edits(self, instructions):
        place = self.folder / "first_exit.asm"
        text = place.read_text()
        assert HERE in text
        place.write_text(text.replace(HERE, instructions))


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    learner = Learner(tmp_path_factory.mktemp("first"))
    for kind, text in BLOCKS:
        if kind == "asm":
            learner.edits(text)
        elif kind == "sh":
            for command in text.splitlines():
                learner.types(command)
    return learner


def test_no_command_ends_in_an_error(learner):
    """A check that fails ends with 1, and nothing else does."""
    assert len(learner.said) >= 9
    for command, code, said in learner.said:
        assert code == (1 if command == "hv lab check" else 0), (command, said)


def test_the_checks_say_what_the_page_says(learner):
    first, second = [said for command, _, said in learner.said if command == "hv lab check"]
    assert "the guest never executed CPUID" in first
    assert "PASS  the hypervisor is asked for its signature" in second
    (trace,) = [said for command, _, said in learner.said if command == "hv lab trace"]
    assert re.search(r"^E1 .*CPUID.*\n +Cpuid .*\nE2 .*HLT", trace, re.M)


def test_the_microscope_shows_what_the_page_says(learner):
    (shown,) = [said for command, _, said in learner.said if command.startswith("hv step")]
    for words in ("reason CPUID", "handle_cpuid", "hv/hypervisor/exits/cpuid.py", "Advance"):
        assert words in shown


def test_the_prompt_answers_as_the_page_says(learner):
    ((_, block),) = [block for block in BLOCKS if block[0] == "repl"]
    image = load_image(learner.folder / "first_exit.asm")
    machine = Machine(memory_mib=32)
    try:
        session = Session(machine, [machine.create_vm("first_exit", image)], {"first_exit": image})
        said = [session.do(line) for line in block.splitlines()]
        lines = block.splitlines()
        assert "rax 0000000040000000" in said[lines.index("regs")]
        assert "unconditionally" in said[lines.index("why")]
        assert "rax 000000004000000a" in said[len(lines) - 1 - lines[::-1].index("regs")]
    finally:
        machine.close()


def test_with_the_rest_the_lab_is_done(learner):
    (learner.folder / "first_exit.asm").write_text(SOLUTION)
    learner.types("hv lab check 1")
    assert learner.said[-1][1] == 0
    learner.types("hv lab list")
    assert re.search(r"done +01_first_exit", learner.said[-1][2])

