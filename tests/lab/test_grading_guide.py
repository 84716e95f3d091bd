"""docs/grading.md: every command in it works, in its order, and leaves what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hv.lab.variants import parameters
from tests.lab.exercises import SOLUTION
from tests.lab.formats.validators import VALIDATORS

GUIDE = (Path(__file__).parents[2] / "docs/grading.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.S) for line in block.splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What each command said, and the folder in which all were executed."""
    home = tmp_path_factory.mktemp("guide")
    (home / "bin").mkdir()
    (home / "bin/hv").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hv "$@"\n')
    (home / "bin/hv").chmod(0o755)
    for folder in ("submission", "student"):
        (home / folder).mkdir()
        (home / folder / "first_exit.asm").write_text(SOLUTION)
    environment = {**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}", "GITHUB_OUTPUT": str(home / "output"),
                   "GITHUB_STEP_SUMMARY": str(home / "summary"), "PYTHONPATH": str(Path(__file__).parents[2])}
    said = {}
    for command in COMMANDS:
        said[command] = subprocess.run(["sh", "-c", command], cwd=home, env=environment, capture_output=True, text=True,
                                       check=False)
    return home, said


def test_the_guide_has_commands_of_every_kind():
    text = "\n".join(COMMANDS)
    assert all(line.startswith("hv ") for line in COMMANDS)
    for words in ("keygen", "handout", "verify", "--dry-run", "--receipt", *set(VALIDATORS) - {"text"}):
        assert words in text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_says(done, command):
    """The class has handed in starters, which earn nothing: code 1."""
    found = done[1][command]
    of_class = command.startswith(("hv grade class", "hv grade class/"))
    assert (found.returncode, found.stderr) == (1 if of_class else 0, "")


@pytest.mark.parametrize(("place", "name"), [
    ("grades.csv", "csv"), ("results.md", "md"), ("results/results.json", "prairielearn"), ("output", "classroom"),
    ("summary", "md"), ("junit.xml", "junit"), ("results.json", "json"),
])
def test_what_is_written_is_what_its_reader_takes(done, place, name):
    VALIDATORS[name]((done[0] / place).read_bytes())


def test_a_receipt_of_the_class_is_genuine(done):
    assert done[1]["hv grade verify receipts/alice.json class/alice --key course.key"].stdout.startswith("GENUINE")


def test_the_parameters_of_the_guide_are_valid():
    import tomllib

    (block,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.S)
    assert list(parameters(tomllib.loads(block)["variants"], "lab.toml")) == ["rounds", "leaf"]
