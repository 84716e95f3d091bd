"""docs/step.md: each command can be typed as it stands, and its pictures are those of today."""

import re
import shlex

import pytest

from hv import cli
from hv.step.app.dialogs import _KEYS
from hv.step.panes import PANES
from hv.step.stages import NAMES
from tests.pictures import PAGE, ROOT, commands, make, text_of

GUIDE = PAGE.read_text(encoding="utf-8")
SHELL = [line.strip() for line in GUIDE.splitlines() if re.match(r"    hv step .*--plain", line)]


@pytest.mark.parametrize("line", SHELL)
def test_a_command_of_the_guide_works(line, capsys):
    assert cli.main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out.startswith("== ")


@pytest.mark.parametrize(("name", "words"), commands(), ids=[name for name, _ in commands()])
def test_a_picture_shows_what_the_screen_shows_today(name, words, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    make(words, name, tmp_path / "now.svg")
    assert text_of(tmp_path / "now.svg") == text_of(ROOT / name), f"{name} is stale: `make pictures` makes it again"


def test_the_guide_shows_all_its_pictures_and_they_are_linked():
    shown = set(re.findall(r"\]\((pictures/\S+\.svg)\)", GUIDE))
    assert {f"docs/{name}" for name in shown} == {name for name, _ in commands()}
    assert len(SHELL) >= 5
    for page in ("README.md", "docs/labs.md"):
        assert "step.md" in (ROOT / page).read_text(encoding="utf-8")


def test_the_guide_names_every_stage_and_pane():
    for stage in NAMES:
        assert f"\n| {stage} | " in GUIDE
    for pane in PANES:
        assert f"**{pane.title}**" in GUIDE or pane.name == "exit"


def test_the_guide_has_the_keys_of_the_help():
    for key in re.findall(r"^(\w) ", _KEYS, re.MULTILINE):
        assert f"`{key}`" in GUIDE
