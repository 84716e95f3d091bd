"""hv run --record, hv replay, hv repl --replay: a run goes on again elsewhere, or one line says why not."""

import base64
import json
import os
import random
import subprocess
import sys

import msgspec
import pytest

from hv import cli
from hv.commands import replay as command


def hv(capsys, *arguments):
    code = cli.main([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def recorded(capsys, tmp_path):
    def record(*arguments):
        place = tmp_path / "run.hvreplay"
        code, out, _ = hv(capsys, "run", *arguments, "--record", place)
        assert code == 0
        return place, out
    return record


@pytest.fixture
def changed(recorded):
    """A recording of hello, in which something may be changed: place and parsed content."""
    place, _ = recorded("hello")

    def change(edit):
        data = json.loads(place.read_text())
        edit(data)
        place.write_text(json.dumps(data))
        return place
    return change


@pytest.mark.parametrize("arguments", [
    ("hello",), ("two_vps", "--smp", 2), ("dma", "--device"), ("ring", "--pc", "--device", "ring"),
    ("guests/synic.toml",), ("root_child", "--root")])
def test_a_recorded_run_goes_on_again(recorded, capsys, arguments):
    place, printed = recorded(*arguments)
    code, out, err = hv(capsys, "replay", place)
    assert (code, out) == (0, printed)
    assert "the same end as recorded: 1 acts, E" in err


def test_another_process_comes_to_the_same_end_without_the_program_file(capsys, tmp_path):
    """The file has all that is needed; nothing depends on the order of sets or on where things are."""
    source, place = tmp_path / "mine.asm", tmp_path / "run.hvreplay"
    source.write_text(".bits 64\nstart:\n xor eax, eax\n cpuid\n hlt\n")
    assert hv(capsys, "run", source, "--record", place)[0] == 0
    source.unlink()
    said = set()
    for seed in ("1", "2"):
        done = subprocess.run([sys.executable, "-m", "hv", "replay", place, "--json"], capture_output=True, text=True,
                              env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        said.add(done.stdout)
    assert len(said) == 1
    assert json.loads(said.pop())["same"] is True


def test_two_recordings_of_a_run_are_the_same_bytes(capsys, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for place in (one, two):
        hv(capsys, "run", "two_vps", "--smp", 2, "--record", place)
    assert one.read_bytes() == two.read_bytes()


def test_what_was_changed_in_the_repl_is_changed_again(capsys, tmp_path):
    place = tmp_path / "run.hvreplay"
    code, out, _ = hv(capsys, "repl", "hello", "-c", "record", "-c", "goto E1:1", "-c", "branch",
                      "-c", 'write gva greeting text "HELLO"', "-c", "record", "-c", f"save {place}")
    assert code == 0, out
    code, out, _ = hv(capsys, "replay", place)
    assert (code, out) == (0, "hELLO from a partition\n")     # its first letter was read before


def test_the_repl_goes_anywhere_in_a_replay_file(recorded, capsys):
    place, _ = recorded("hello")
    code, out, _ = hv(capsys, "repl", "--replay", place, "-c", "goto E5:2", "-c", "rstep")
    assert code == 0
    assert out.startswith("E5:2\n=> ")
    assert "hello.asm:" in out


@pytest.mark.parametrize(("edit", "code", "why"), [
    (lambda data: data.update(end="0" * 32), 1, "came to another end than it was recorded with"),
    (lambda data: data.update(begin="0" * 32), 1, "begins with another machine"),
    (lambda data: data.update(engine="unicorn 1", end=""), 1, "recorded with unicorn 1, and here is unicorn"),
    (lambda data: data.update(hvlab_replay=2), 2, "is no replay file"),
    (lambda data: data["acts"][0].update(turns=-1), 2, "is no replay file"),
    (lambda data: data["acts"].append({"act": "cut", "exits": 5}), 1, "act 2 cannot be done again"),
    (lambda data: data["acts"].insert(0, {"act": "changed", "change": {
        "change": "register", "partition": 9, "vp": 0, "name": "RAX", "value": 1}}), 1, "there is no partition 9"),
    (lambda data: data["acts"].append({"act": "rm -rf"}), 2, "is no replay file"),
    (lambda data: data["machine"]["images"].clear(), 2, "has 0 programs for 1 VMs"),
    (lambda data: data["machine"]["description"].update(memory_mib=10 ** 9), 2, "memory_mib is 1000000000; expected"),
    (lambda data: data["machine"]["description"]["vm"][0].update(vps=65), 2, "65"),
    (lambda data: data["machine"]["description"]["vm"][0].update(other="x"), 2, "`other` of hello is `x`"),
    (lambda data: data["machine"].update(root=True), 1, "begins with another machine"),
    (lambda data: data["machine"]["images"][0]["segments"][0].update(gpa=1 << 40), 2, "needs memory up to"),
    (lambda data: data["machine"]["images"][0].update(bits=17), 2, "is no replay file"),
])
def test_a_file_that_was_changed_by_hand_is_refused_in_one_line(changed, capsys, edit, code, why):
    found, _, err = hv(capsys, "replay", changed(edit))
    assert found == code
    assert why in err.splitlines()[-1]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"hvlab_replay": 1'])
def test_what_is_no_replay_file_is_told(capsys, tmp_path, content):
    place = tmp_path / "broken"
    place.write_bytes(content)
    code, out, err = hv(capsys, "replay", place)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "broken is no replay file" in err


def test_a_file_that_is_not_there_is_told(capsys, tmp_path):
    assert "cannot be read" in hv(capsys, "replay", tmp_path / "none")[2]
    assert "cannot be read" in hv(capsys, "replay", tmp_path)[2]


@pytest.mark.parametrize(("arguments", "why"), [
    (("hello", "--parallel"), "no run of it is like another"), (("hello",), "is there already")])
def test_a_recording_that_cannot_be_is_refused_before_the_run(capsys, tmp_path, arguments, why):
    place = tmp_path / "run"
    place.write_text("mine")
    code, out, err = hv(capsys, "run", *arguments, "--record", place)
    assert (code, out) == (2, "")
    assert why in err
    assert place.read_text() == "mine"


def test_a_folder_that_is_not_there_is_told_before_the_run(capsys, tmp_path):
    code, out, err = hv(capsys, "run", "hello", "--record", tmp_path / "no" / "run")
    assert (code, out) == (2, "")
    assert "name a file in a folder" in err


def test_replay_and_a_program_are_one_too_many(recorded, capsys):
    place, _ = recorded("hello")
    code, _, err = hv(capsys, "repl", "timer", "--replay", place)
    assert code == 2
    assert "has the whole machine" in err


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_ends_in_one_line(recorded, capsys, seed, monkeypatch):
    """Numbers, words and bytes of the file are other ones: it is the same run, or one line says why not."""
    place, _ = recorded("hello")
    chosen, data = random.Random(seed), json.loads(place.read_text())
    for _ in range(chosen.randrange(1, 4)):
        damage(data, chosen)
    data["acts"] = [act if act.get("act") != "ran" else {**act, "until_tsc": 10 ** 7} for act in data["acts"]
                    if isinstance(act, dict)]        # or a damaged program runs for ever
    place.write_bytes(msgspec.json.encode(data))
    code, _, err = hv(capsys, "replay", place)
    assert code in (0, 1, 2), err
    assert "internal error" not in err


def damage(data, chosen):
    """Another value at a random place of parsed JSON."""
    while True:
        key = chosen.choice(list(data)) if isinstance(data, dict) else chosen.randrange(len(data))
        if isinstance(data[key], dict | list) and data[key] and chosen.random() < 0.9:
            data = data[key]
            continue
        old = data[key]
        if isinstance(old, str) and key == "data":
            raw = bytearray(base64.b64decode(old))
            raw[chosen.randrange(len(raw))] = chosen.randrange(256)
            data[key] = base64.b64encode(raw).decode()
        else:
            data[key] = chosen.choice([0, 1, -1, 2 ** 31, 2 ** 63, 10 ** 30, "", "x", None, [], {}, True, 0x7C00])
        return


def test_ctrl_c_ends_a_replay(recorded, capsys, monkeypatch):
    place, _ = recorded("hello")
    monkeypatch.setattr("hv.commands.building.Interrupted.asked", True, raising=False)
    monkeypatch.setattr("hv.commands.building.Interrupted.__init__", lambda self, own_file="": None)
    assert hv(capsys, "replay", place)[0] == 130
    assert command is not None
