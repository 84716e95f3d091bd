"""The REPL and Ctrl-C on a real terminal: a pseudo-terminal with a screen behind it."""

import sys
import time

import pytest

pexpect = pytest.importorskip("pexpect")
pyte = pytest.importorskip("pyte")

HV = [sys.executable, "-m", "hv"]


class Terminal:
    """A program on a screen of 100 x 40."""

    def __init__(self, *arguments, **environment):
        import os

        try:
            self.child = pexpect.spawn(HV[0], [*HV[1:], *map(str, arguments)], dimensions=(40, 100), timeout=20,
                                       env={**os.environ, "TERM": "xterm-256color", **environment})
        except OSError as error:
            pytest.skip(f"no pseudo-terminal here: {error}")
        self.screen = pyte.Screen(100, 40)
        self.stream = pyte.ByteStream(self.screen)

    def shows(self, text, seconds=20, times=1):
        """Wait until *text* is on the screen, as often as *times*."""
        deadline = time.monotonic() + seconds
        while self.text().count(text) < times:
            try:
                data = self.child.read_nonblocking(65536, timeout=0.2)
            except pexpect.TIMEOUT:
                data = b""
            except pexpect.EOF:
                break
            self.stream.feed(data)
            if b"\x1b[6n" in data:      # prompt_toolkit asks where the cursor is
                self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
            if time.monotonic() > deadline:
                break
        assert self.text().count(text) >= times, "\n".join(line for line in self.screen.display if line.strip())

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def ends(self):
        """Wait for the end; the exit code."""
        while True:
            try:
                self.stream.feed(self.child.read_nonblocking(65536, timeout=20))
            except pexpect.EOF:
                break
        self.child.close()
        return self.child.exitstatus


@pytest.fixture
def endless(tmp_path):
    place = tmp_path / "endless.asm"
    place.write_text(".bits 64\nstart:\n jmp start\n")
    return place


def test_a_session_at_the_prompt():
    terminal = Terminal("repl", "timer")
    terminal.shows("stands before its first instruction")
    terminal.shows("timer.0 start>")
    terminal.child.send("step\r")
    terminal.shows("timer.0 start+0x5>")
    terminal.child.send("\r")                       # Enter repeats a step
    terminal.shows("timer.0 start+0xa>")
    terminal.child.send("nonsense\r")
    terminal.shows("error: `nonsense` is no command")
    terminal.child.send("quit\r")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.text()


@pytest.fixture(autouse=True)
def state_directory(tmp_path, monkeypatch):
    """What a session remembers is not mixed with what the user's own sessions do."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def prompt(tmp_path):
    """A session at the prompt."""
    def start():
        terminal = Terminal("repl", "timer", HOME=str(tmp_path))
        terminal.shows("timer.0 start>")
        return terminal
    return start


def test_tab_completes_commands_and_symbols(prompt):
    terminal = prompt()
    terminal.child.send("pagew\t")
    terminal.shows("start> pagewalk")
    terminal.child.send(" on_timer.m\t")
    terminal.shows("pagewalk on_timer.more")
    terminal.child.send("\r")
    terminal.shows("gva 0x10092 -> gpa 0x10092")
    terminal.child.send("mem g\t")
    terminal.shows("guest-physical")                # the menu, with what each word is
    terminal.child.send("\x03quit\r")
    assert terminal.ends() == 0


def test_several_lines_of_python_end_with_an_empty_one(prompt):
    terminal = prompt()
    terminal.child.send("for n in (3, 4):\r")
    terminal.shows("\n...")
    terminal.child.send("print('so', n * n)\r\r")
    terminal.shows("so 9")
    terminal.shows("so 16")
    terminal.child.send("quit\r")
    assert terminal.ends() == 0


def test_history_outlives_the_session(prompt, tmp_path):
    terminal = prompt()
    terminal.child.send("until 0.1ms\r")
    terminal.shows("time reached")
    terminal.child.send("quit\r")
    assert terminal.ends() == 0
    again = prompt()
    again.child.send("\x1b[A\x1b[A")                # up, up: quit, until
    again.shows("start> until 0.1ms")
    again.child.send("\r")
    again.shows("time reached")
    again.child.send("\x04")
    assert again.ends() == 0


def test_a_broken_history_is_told_and_stops_nobody(prompt, tmp_path):
    place = tmp_path / "hvlab"
    place.mkdir()
    (place / "repl_history.jsonl").write_bytes(b"\xff\x00\n")
    terminal = prompt()
    terminal.shows("note: the history had 1 broken lines")
    terminal.child.send("\x04")
    assert terminal.ends() == 0
    assert (place / "repl_history.jsonl.broken-1").exists()


def test_ctrl_c_abandons_the_line_and_ctrl_d_leaves(prompt):
    terminal = prompt()
    terminal.child.send("step 77\x03")
    terminal.shows("timer.0 start>\n")
    terminal.child.send("regs fp\r")
    terminal.shows("mxcsr")
    terminal.shows("timer.0 start>", times=3)                   # nothing was stepped
    terminal.child.send("\x04")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.text()


def test_ctrl_c_stops_what_runs_and_gives_the_prompt_back(endless):
    terminal = Terminal("repl", endless, "--plain")
    terminal.shows("endless.0 start>")
    terminal.child.send("continue\r")
    time.sleep(0.7)
    terminal.child.sendintr()
    terminal.shows("interrupted")
    terminal.child.send("quit\r")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.text()


def test_ctrl_c_stops_an_endless_loop_of_the_users_own():
    terminal = Terminal("repl", "hello", "--plain")
    terminal.shows("hello.0 start>")
    terminal.child.send("!while True: pass\r")
    time.sleep(0.7)
    terminal.child.sendintr()
    terminal.shows("error: interrupted")
    terminal.child.send("quit\r")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.text()


def test_ctrl_c_stops_an_endless_guest_at_once_with_one_line(endless):
    terminal = Terminal("run", endless, "--budget", "100000s")
    time.sleep(2)
    start = time.monotonic()
    terminal.child.sendintr()
    assert terminal.ends() == 130
    assert time.monotonic() - start < 3
    lines = [line for line in terminal.text().split("\n") if line]
    assert lines[-1] == "hv: interrupted"
    assert "Traceback" not in terminal.text()


def test_colours_on_a_terminal_and_none_with_no_color():
    raw = {}
    for name, environment in (("coloured", {}), ("plain", {"NO_COLOR": "1"})):
        terminal = Terminal("run", "hello", **environment)
        data = terminal.child.read()
        raw[name] = b"\x1b[" in data
    assert raw == {"coloured": True, "plain": False}


def test_a_guest_that_crashes_opens_the_repl_at_its_last_exit(tmp_path):
    place = tmp_path / "crash.asm"
    place.write_text(".bits 64\n.org 0x10000\n.entry start\nstart:\n    xor eax, eax\n    cpuid\n    ud2\n")
    terminal = Terminal("run", place, "--debug", XDG_STATE_HOME=str(tmp_path))
    terminal.shows("it stands at E2, exit TRIPLE_FAULT of")
    terminal.shows("crash.0 start+0x4>")
    terminal.child.send("why fault\r")
    terminal.shows("raised at CPL 0 by `ud2`")
    terminal.child.send("quit\r")
    assert terminal.ends() == 3
