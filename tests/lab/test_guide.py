"""docs/labs.md, the guide of authors, says what lab.toml can say: no more, no less."""

import re
import tomllib
import typing
from pathlib import Path

import hv
from hv.commands.lab import ACTIONS
from hv.lab.checks import AnyCheck
from hv.lab.exercise import Description, Limits, PieceSetting
from hv.lab.faults import FAULTS
from hv.lab.setting import Connection, OtherVm, Setting
from hv.lab.truths import AnyTruth

GUIDE = (Path(hv.__file__).parent.parent / "docs/labs.md").read_text()


def tags(union):
    return {one.__struct_config__.tag for one in typing.get_args(union)}


def test_every_kind_of_check_has_its_row():
    table = GUIDE.partition("| kind | passes when |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == tags(AnyCheck)


def test_every_way_to_find_an_answer_has_its_row():
    assert set(re.findall(r"\{ of = \"(\w+)\"", GUIDE)) == tags(AnyTruth)


def test_every_bug_is_named():
    assert [name for name in FAULTS if name not in GUIDE] == []


def test_every_field_of_the_head_and_the_machine_is_there():
    fields = [name for one in (Description, Limits, PieceSetting, Setting, OtherVm, Connection)
              for name in one.__struct_encode_fields__]
    assert [name for name in fields if not re.search(rf"\b{name}\b", GUIDE)] == []


def test_what_is_shown_as_toml_is_toml():
    blocks = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        tomllib.loads(block)


def test_every_command_in_the_guide_exists():
    commands = re.findall(r"`hv lab (\w+|--labs)", GUIDE)
    assert {"verify", "export", "trace"} <= set(commands)
    assert set(commands) - {"--labs"} <= set(ACTIONS)
