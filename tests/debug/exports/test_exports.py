"""The files of `export`: each keeps the rules of its format, and the same session gives the same bytes."""

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pyte
import pytest

from hv import cli
from hv.debug.exports.files import write_file
from hv.debug.transcript import MOST_KEPT, Transcript
from hv.replay.fingerprint import fingerprint
from tests.debug.sessions import refused, session_over
from tests.trace.timeline_rules import broken_rules

LINES = ("regs", "until 200us", "exits 3", "foo", "x = [\n1]", "serial")


@pytest.fixture(scope="module")
def session():
    session = talk()
    yield session
    session.machine.close()


def talk():
    """A session in which LINES were said."""
    session = session_over(("timer", "timer", 1))
    for line in LINES:
        if line == "foo":
            refused(session, line)
        else:
            session.do(line)
    return session


def text_of(name):
    return Path(name).read_text(encoding="utf-8")


# --- the formats -----------------------------------------------------------------------------------------------


def test_a_timeline_keeps_the_rules_of_its_format(session):
    said = session.do("export timeline a.json")
    assert "events of" in said
    assert said.endswith("us in a.json")
    assert broken_rules(text_of("a.json")) == []
    assert '"name":"timer"' in text_of("a.json")


def test_of_a_recorded_run_the_timeline_has_all_and_nothing_moves():
    session = session_over(("timer", "timer", 1))
    session.do("record 2ms")
    session.do("export timeline end.json")
    at_end = fingerprint(session.machine), session.do("exits 3")
    session.do("goto E5:2")
    before = fingerprint(session.machine), session.do("exits 3"), session.timeline.position
    session.do("export timeline past.json")
    assert text_of("past.json") == text_of("end.json")
    assert broken_rules(text_of("past.json")) == []
    assert (fingerprint(session.machine), session.do("exits 3"), session.timeline.position) == before
    session.do("goto end")
    session.do("export timeline end.json --force")
    assert fingerprint(session.machine) == at_end[0]
    assert text_of("past.json") == text_of("end.json")
    session.machine.close()


def test_a_cast_is_asciicast_version_2(session):
    """https://docs.asciinema.org/manual/asciicast/v2/: a header, then [time, code, data], times never going back."""
    session.do("export session a.cast")
    header, *events = [json.loads(line) for line in text_of("a.cast").splitlines()]
    assert header["version"] == 2
    assert all(isinstance(header[name], int) and header[name] > 0 for name in ("width", "height"))
    assert "timestamp" not in header
    assert all(len(event) == 3 and event[1] == "o" and isinstance(event[2], str) for event in events)
    times = [event[0] for event in events]
    assert times == sorted(times)
    assert times[0] == 0


def test_a_terminal_that_plays_the_cast_shows_the_session(session):
    session.do("export session a.cast")
    header, *events = [json.loads(line) for line in text_of("a.cast").splitlines()]
    screen = pyte.Screen(header["width"], 200)
    stream = pyte.Stream(screen)
    for _, _, text in events:
        stream.feed(text)
    shown = [line.rstrip() for line in screen.display]
    assert shown[0] == "timer.0 start> regs"
    assert shown[1].startswith("rax 0000000000000000")
    assert "error: `foo` is no command; `help` lists them" in shown


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data


def test_a_picture_is_well_formed_and_asks_the_network_for_nothing(session):
    session.do("export screen a.svg 4")
    root = ElementTree.fromstring(text_of("a.svg"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "foo" in "".join(root.itertext())
    assert "@font-face" not in text_of("a.svg")
    assert "url(" not in text_of("a.svg").replace("url(#hv-", "")


def test_a_page_is_well_formed(session):
    session.do("regs")
    session.do("export screen a.html 1")
    tags = _Tags()
    tags.feed(text_of("a.html"))
    assert (tags.open, tags.wrong) == ([], [])
    assert "hv repl timer" in tags.text
    assert "rflags" in tags.text


@pytest.mark.parametrize("line", ["timeline a.json", "session a.cast", "screen a.svg", "screen a.html 3", "map a.mmd",
                                  "map a.md"])
def test_the_same_session_gives_the_same_bytes(line):
    files = []
    for number in range(2):
        session = talk()
        session.do(f"export {line.replace(' a.', f' {number}.')}")
        files.append(Path(line.split()[1].replace("a.", f"{number}.")).read_bytes())
        session.machine.close()
    assert files[0] == files[1]


# --- the files -------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_replaced_when_that_is_asked_for(session):
    Path("a.mmd").write_text("mine", encoding="utf-8")
    assert "a.mmd is there already; name another, or add --force" in refused(session, "export map a.mmd")
    assert text_of("a.mmd") == "mine"
    assert session.do("export map a.mmd --force") == "the map of 2 partitions in a.mmd"
    assert text_of("a.mmd").startswith("flowchart")
    assert os.listdir() == ["a.mmd"]            # and no temporary file is left


@pytest.mark.parametrize(("line", "words"), [
    ("export", "what is missing; usage: export WHAT TEXT"),
    ("export map", "text is missing"),
    ("export maps a.md", "`maps` is nothing to export; did you mean `map`?"),
    ("export xyz a.md", "there are timeline, session, screen, map"),
    ("export map --force", "the name of the file is missing"),
    ("export map ''", "the name of the file is missing"),
    ("export map 'a.md", "No closing quotation"),
    ("export map a.txt", "`a.txt` is no name for a map; it ends with .mmd or .md"),
    ("export session a", "it ends with .cast"),
    ("export map a.md 5", "`5` is too much"),
    ("export screen a.svg 0", "0 answers are out of range 1..100"),
    ("export screen a.svg x y", "`y` is too much"),
    ("export map nowhere/a.md", "nowhere/a.md cannot be written: No such file or directory"),
    ("export map folder.md", "folder.md is a folder"),
    ("export map /dev/null/a.md", "cannot be written: Not a directory"),
    ("export map 'a\\0.md'", "in"),
    ("export map " + "a" * 300 + ".md", "File name too long"),
])
def test_what_cannot_be_written_is_one_line(session, line, words):
    Path("folder.md").mkdir()
    if "\\0" in line:
        session.do(line)                        # a backslash and a zero: a name like any other
        return
    assert words in refused(session, line)
    assert os.listdir() == ["folder.md"]


def test_a_file_is_written_whole_or_not_at_all(monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(os, "replace", fail)
    for force in (False, True):
        with pytest.raises(Exception, match="No space left on device"):
            write_file("a.md", "text", force)
    assert os.listdir() == []


def test_before_anything_happened_there_is_nothing_to_export():
    session = session_over(("timer", "timer", 1))
    assert "no event yet" in refused(session, "export timeline a.json")
    assert "nothing was said yet" in refused(session, "export session a.cast")
    session.machine.close()


# --- what is kept ----------------------------------------------------------------------------------------------


def test_the_transcript_has_the_last_lines_and_nothing_that_commands_a_terminal():
    transcript = Transcript()
    for number in range(MOST_KEPT + 5):
        transcript.note("> ", f"{number}\x1b[2J", "")
    transcript.note("> ", "  ", "nothing")
    assert len(transcript.spoken) == MOST_KEPT
    assert transcript.spoken[0].line == "5\\x1b[2J"
    assert transcript.spoken[-1].line == f"{MOST_KEPT + 4}\\x1b[2J"


def test_a_session_for_programs_can_be_exported_too(capsys):
    assert cli.main(["repl", "timer", "--json", "-c", "regs", "-c", "foo", "-c", "export session a.cast"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[2])["answer"] == "2 lines in a.cast"
    assert "rflags" in text_of("a.cast")
    assert "`foo` is no command" in text_of("a.cast")
