"""Every line of docs/repl.md can be typed as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from hv import cli
from tests.debug.sessions import session_over

GUIDE = (Path(__file__).parents[2] / "docs" / "repl.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```repl (\w+)\n(.*?)```", GUIDE, re.DOTALL)
SHELL = [line.strip() for line in GUIDE.splitlines() if re.match(r"    hv repl \w+ -", line)]


@pytest.mark.parametrize(("guest", "block"), BLOCKS, ids=[block.split()[0] for _, block in BLOCKS])
def test_a_block_of_the_guide_works(guest, block, tmp_path, monkeypatch):
    session = session_over((guest, guest, 1))
    monkeypatch.chdir(tmp_path)         # where it writes files
    for line in block.splitlines():
        session.do(line.rstrip())
    session.machine.close()


@pytest.mark.parametrize("line", SHELL)
def test_a_command_of_the_guide_works(line, capsys):
    assert cli.main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out


def test_the_guide_has_blocks_and_commands():
    assert len(BLOCKS) >= 6
    assert len(SHELL) >= 3
