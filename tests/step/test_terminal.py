"""The screen in a real terminal: it comes up, a key is a step, it takes a new size, and leaves all as it was."""

import re
import shlex

import pytest

from tests.debug.test_terminal import HV, Terminal, endless, pexpect  # noqa: F401  `endless` is a fixture


class Shell(Terminal):
    """`hv step` in a shell that says before and behind it how the terminal is set; *raw* is all that came."""

    def __init__(self, arguments, **environment):
        super().__init__("--version")
        self.ends()
        line = f"stty -g; {shlex.join(HV)} {arguments}; echo code=$?; stty -g"
        self.screen.reset()
        self.child = pexpect.spawn("/bin/sh", ["-c", line], dimensions=(40, 100), timeout=20,
                                   env={"PATH": "/usr/bin:/bin", "TERM": "xterm-256color", **environment})
        self.raw, self._feed = "", self.stream.feed
        self.stream.feed = self._heard

    def _heard(self, data):
        self.raw += data.decode("utf-8", "replace")
        self._feed(data)


@pytest.mark.parametrize("leave", ["q", "\x03"])
def test_a_session_leaves_the_terminal_as_it_was(leave):
    terminal = Shell("step timer")
    terminal.shows("─ E44")
    for key, place in (("e", " E1 "), ("s", " E1:1 "), ("\x1b[D", " E0:23 ")):      # the left arrow
        terminal.child.send(key)
        terminal.shows(place)
    terminal.child.send(leave)
    terminal.ends()
    raw = terminal.raw
    assert "Traceback" not in raw
    assert "code=0" in raw
    assert raw.rindex("\x1b[?1049l") > raw.rindex("\x1b[?1049h")        # the other screen is left
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")            # the cursor is there
    assert raw.rindex("\x1b[?1000l") > raw.rindex("\x1b[?1000h")        # the mouse is the terminal's again
    before, after = re.findall(r"[0-9a-f]+(?::[0-9a-f]+){20,}", raw)
    assert before == after


def test_a_new_size_is_taken_at_once():
    terminal = Terminal("step", "timer", COLUMNS="", LINES="")
    terminal.shows("1 Code")                        # tabs: 100 columns are a small screen
    for lines, columns, words in ((45, 170, "─ Machine"), (12, 50, "This terminal is 50 x 12")):
        terminal.screen.resize(lines, columns)
        terminal.child.setwinsize(lines, columns)
        terminal.shows(words)
    terminal.child.send("q")
    assert terminal.ends() == 0


def test_a_recording_is_ended_by_ctrl_c_and_shown_as_far_as_it_came(endless):       # noqa: F811
    terminal = Terminal("step", endless, "--budget", "100s", COLUMNS="", LINES="")
    terminal.shows("recording")
    terminal.child.send("\x03")
    terminal.shows("▸ The exit")
    terminal.child.send("\x1b[F")                   # to the end
    terminal.shows(" end ")
    terminal.child.send("6")
    terminal.shows("when Ctrl-C ended")
    terminal.child.send("q")
    assert terminal.ends() == 0


def test_without_colours_nothing_is_coloured():
    terminal = Shell("step timer", NO_COLOR="1")
    terminal.shows("─ E44")
    terminal.child.send("q")
    terminal.ends()
    codes = {code for sequence in re.findall(r"\x1b\[([\d;]+)m", terminal.raw) for code in sequence.split(";")}
    assert codes
    assert not codes & {"38", "48", *map(str, [*range(30, 38), *range(40, 48), *range(90, 98), *range(100, 108)])}


def test_a_dumb_terminal_gets_text():
    terminal = Terminal("step", "timer", "--pane", "code", TERM="dumb", COLUMNS="", LINES="")
    assert terminal.ends() == 0
    assert "== E0  timer.0" in terminal.text()
