"""hv run --interactive: a real pseudo-terminal before a PC, and its time by a terminal whose clock the test sets."""

import contextlib
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from hv import cli
from hv.commands.interactive import SHORT_TICKS, Console
from hv.image.load import load
from hv.platform import Machine
from hv.replay.fingerprint import fingerprint
from hv.replay.position import Position
from hv.replay.timeline import Timeline
from tests.guest_runner import image_of

pexpect = pytest.importorskip("pexpect")
termios = pytest.importorskip("termios")
raw_terminal = pytest.importorskip("hv.commands.raw_terminal")

SECOND = 2_000_000_000
READY = "type; Ctrl-D ends\r\n"
OFF = "mov dx, 0x604; mov ax, 0x2000; out dx, ax; cli; hlt"
# A tick of the PIT's counter 0, some 50 ms long, wakes it; COM1 gets a dot each.
TICKS = ("mov eax, tick; mov [0x60200], ax; mov word ptr [0x60202], 8; mov word ptr [0x60204], 0x8E00; "
         "shr eax, 16; mov [0x60206], ax; lidt [pointer]; mov al, 0x11; out 0x20, al; mov al, 0x20; out 0x21, al; "
         "mov al, 4; out 0x21, al; mov al, 1; out 0x21, al; mov al, 0xFE; out 0x21, al; mov al, 0x34; out 0x43, al; "
         "mov al, 0xFF; out 0x40, al; mov al, 0xE8; out 0x40, al; mov ebx, 20; more:; sti; hlt; dec ebx; jnz more; "
         f"{OFF}; tick:; mov dx, 0x3F8; mov al, 46; out dx, al; mov al, 0x20; out 0x20, al; iretq; "
         "pointer:; .word 4095; .quad 0x60000")
BUSY = f"mov ecx, 20000000; more:; loop more; {OFF}"


class Terminal:
    """`hv run` on a pseudo-terminal; every wait has a deadline."""

    def __init__(self, *arguments, dimensions=(24, 80)):
        try:
            self.child = pexpect.spawn(sys.executable, ["-m", "hv", "run", *map(str, arguments)], timeout=10,
                                       dimensions=dimensions)
        except OSError as error:
            pytest.skip(f"no pseudo-terminal here: {error}")
        self.child.delaybeforesend = None
        self.modes = termios.tcgetattr(self.child.child_fd)

    def shows(self, text):
        self.child.expect_exact(text)
        return self.child.before.decode()

    def types(self, keys):
        self.child.send(keys)

    @property
    def is_raw(self):
        return termios.tcgetattr(self.child.child_fd) != self.modes

    def becomes_raw(self):
        deadline = time.monotonic() + 10
        while not self.is_raw:
            assert time.monotonic() < deadline
            self.child.expect(pexpect.TIMEOUT, timeout=0.02)

    def ends(self):
        """The exit code, and what was printed behind what was read; the modes of the terminal are as they were."""
        while True:
            try:
                last = self.child.read_nonblocking(4096, timeout=0.1)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                break
            self.rest = getattr(self, "rest", b"") + last
        self.child.wait()
        return self.child.exitstatus, getattr(self, "rest", b"").decode()


@pytest.fixture
def typewriter():
    started = []

    def start(*options, **more):
        started.append(Terminal("typewriter", "--pc", "-i", *options, **more))
        started[-1].hint = started[-1].shows(READY)
        return started[-1]
    yield start
    for terminal in started:
        terminal.child.close(force=True)


def test_keys_go_to_the_guest_as_they_are_struck_and_a_recording_has_them(typewriter, tmp_path, capsysbinary):
    """Without Enter, control characters too, and nothing is added to what comes out. Ctrl-D is the guest's own end."""
    terminal = typewriter("--record", tmp_path / "kept")
    assert terminal.is_raw
    for key in "a\tb":
        terminal.types(key)
        assert terminal.shows(key) == ""
    terminal.types("\x03")
    assert terminal.shows("^C\r\n") == ""
    terminal.types("\x1b[A\r")
    assert terminal.shows("\x1b[A\r\n") == ""
    terminal.types("\x04")
    code, summary = terminal.ends()
    assert (code, "typewriter: shutdown" in summary, terminal.is_raw) == (0, True, False)
    assert cli.main(["replay", str(tmp_path / "kept")]) == 0
    out, err = capsysbinary.readouterr()
    assert out.decode() == READY + "a\tb^C\r\n\x1b[A\r\n"
    assert b"the same end as recorded" in err


def test_a_stopped_process_gives_the_terminal_back_and_ctrl_bracket_leaves(typewriter):
    terminal = typewriter(dimensions=(10, 60))
    assert "Ctrl-] leaves" in terminal.hint
    assert "this window is 60 x 10, and guests expect 80 x 24" in terminal.hint
    terminal.types("x")
    terminal.shows("x")
    os.kill(terminal.child.pid, signal.SIGTSTP)
    os.waitpid(terminal.child.pid, os.WUNTRACED)
    assert not terminal.is_raw
    os.kill(terminal.child.pid, signal.SIGCONT)
    terminal.becomes_raw()
    terminal.types("y")
    assert terminal.shows("y") == ""
    terminal.types("\x1d")
    code, summary = terminal.ends()
    assert (code, "typewriter: left (Ctrl-] was pressed)" in summary, terminal.is_raw) == (0, True, False)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(typewriter, name):
    terminal = typewriter()
    os.kill(terminal.child.pid, getattr(signal, name))
    code, said = terminal.ends()
    assert (code, terminal.is_raw) == (128 + getattr(signal, name), False)
    assert said.strip().endswith({"SIGTERM": "hv: ended by SIGTERM", "SIGINT": "hv: interrupted"}[name])


# --- a terminal within this process ---------------------------------------------------------------------------------


@pytest.fixture
def pair(monkeypatch):
    """Both ends of a pseudo-terminal; standard input and output are the inner one."""
    try:
        outer, inner = os.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here: {error}")
    stream = SimpleNamespace(fileno=lambda: inner, isatty=lambda: True)
    monkeypatch.setattr(raw_terminal, "sys", SimpleNamespace(stdin=stream, stdout=stream))
    yield outer, inner
    for end in (outer, inner):
        with contextlib.suppress(OSError):
            os.close(end)


def test_an_exception_gives_the_terminal_back_and_all_that_was_printed_comes_out(pair):
    outer, inner = pair
    before, handler = termios.tcgetattr(inner), signal.getsignal(signal.SIGTERM)
    terminal = raw_terminal.RawTerminal()

    def breaks():
        with terminal:
            assert termios.tcgetattr(inner) != before
            terminal.print("\xff\n" * 300)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks()
    assert (termios.tcgetattr(inner), signal.getsignal(signal.SIGTERM)) == (before, handler)
    came = b""
    while len(came) < 600:
        came += os.read(outer, 4096)
    assert came == b"\xff\n" * 300


def test_who_goes_away_is_told_of_once(pair):
    outer, _ = pair
    with raw_terminal.RawTerminal() as terminal:
        os.write(outer, b"last")
        assert (terminal.keys(), terminal.gone) == (b"last", False)
        os.close(outer)
        assert (terminal.keys(), terminal.gone) == (b"", True)
        terminal.print("to nobody")


# --- time -----------------------------------------------------------------------------------------------------------


class Sleeper:
    """A terminal where a wait takes as long as was asked for, and somebody types *script*: after so many seconds,
    these keys."""

    def __init__(self, *script):
        self.script, self.slept, self.text = list(script), 0.0, ""
        self.gone, self.ended_by = False, 0

    def print(self, text):
        self.text += text

    def flush(self):
        pass

    def key_waits(self):
        return bool(self.script) and self.slept >= self.script[0][0]

    def wait(self, seconds):
        assert seconds is not None or self.script, "it would wait forever"
        end = self.script[0][0] if self.script else self.slept + seconds
        took = min(max(0, end - self.slept), end if seconds is None else seconds)
        self.slept += took
        return took

    def keys(self):
        return self.script.pop(0)[1] if self.key_waits() else b""


def sat_before(image, terminal, until_tsc=None):
    """The VM, its console, and how many seconds of virtual time it took."""
    machine = Machine(memory_mib=24)
    vm = machine.create_vm("pc", image, 4, pc=True)
    vm.on_serial(terminal.print)
    console = Console(machine, vm, terminal, machine.run, lambda change: change.apply(machine))
    begin = machine.clock.tsc
    console.run(until_tsc)
    took = (machine.clock.tsc - begin) / SECOND
    machine.close()
    return vm, console, took


def test_the_time_of_an_idle_guest_is_the_hosts():
    """20 ticks, the first at once and then one in 50 ms; what the guest executes in between is nothing."""
    terminal = Sleeper()
    vm, _, took = sat_before(image_of(TICKS), terminal)
    assert (vm.ended, terminal.text) == ("shutdown", "." * 20)
    assert took == pytest.approx(0.95, abs=0.01)
    assert terminal.slept == pytest.approx(took, abs=2 * SHORT_TICKS / SECOND)


def test_a_guest_that_computes_waits_for_nobody():
    terminal = Sleeper()
    vm, _, took = sat_before(image_of(BUSY), terminal)
    assert vm.ended == "shutdown"
    assert (took > 0.018, terminal.slept < 0.01) == (True, True)


def test_who_sleeps_without_a_timer_is_woken_by_a_key_at_its_time():
    """Nothing else could ever happen in that machine, which is no end for who may be typed at."""
    terminal = Sleeper((3.0, b"k"), (4.5, b"\x04"))
    vm, _, took = sat_before(load("guests/typewriter.asm"), terminal)
    assert (vm.ended, terminal.text) == ("shutdown", READY + "k")
    assert took == pytest.approx(4.5, abs=0.01)


def test_what_was_typed_before_the_key_that_leaves_is_typed():
    terminal = Sleeper((1.0, b"ab\x1dc"))
    vm, console, _ = sat_before(load("guests/typewriter.asm"), terminal)
    assert (vm.ended, console.left) == (None, True)


def test_who_can_never_be_woken_ends_and_a_limit_is_kept():
    terminal = Sleeper()
    assert sat_before(image_of("cli; hlt"), terminal)[0].ended == "halt"
    vm, _, took = sat_before(load("guests/typewriter.asm"), terminal, SECOND)
    assert (vm.ended, took) == (None, pytest.approx(1.0, abs=0.1))


def test_a_recording_of_who_sat_there_comes_to_the_same_end_and_goes_back_in_between():
    """Keys while it waits and while it computes; the acts of a whole recording are done again on another machine."""
    machine, other = Machine(memory_mib=24), Machine(memory_mib=24)
    vm, _ = (each.create_vm("pc", load("guests/typewriter.asm"), 4, pc=True) for each in (machine, other))
    terminal = Sleeper((0.5, b"one"), (0.5, b"\r"), (0.7, b"two\x03"), (1.0, b"\x04"))
    vm.on_serial(terminal.print)
    timeline, again = Timeline(machine, spacing=100), Timeline(other)
    Console(machine, vm, terminal, timeline.attend, timeline.intervene).run(None)
    timeline.settle()
    assert (vm.ended, vm.serial) == ("shutdown", READY + "one\r\ntwo^C\r\n")
    for act in timeline.acts:
        again.play(act)
    end = fingerprint(machine)
    assert fingerprint(other) == end
    assert 2 < len(timeline.checkpoints) < len(timeline.acts), "some are due, and not one for each act"
    for exits in (timeline.end.exits // 2, timeline.end.exits - 5):
        timeline.go(Position(exits))
    timeline.go_to_end()
    assert fingerprint(machine) == end
    machine.close()
    other.close()


# --- what it is not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "said"), [
    (["hello", "--pc", "-i"], "needs a terminal, and standard input is none; without it, --input FILE types a text"),
    (["hello", "-i"], "--interactive is for a PC, and hello has no such board; give it one: --pc"),
    (["hello", "--pc", "-i", "--json"], "--interactive with --json"),
    (["hello", "--pc", "-i", "--input", "/dev/null"], "--interactive with --input"),
    (["hello", "--root", "-i"], "--interactive with --root"),
    (["guests/synic.toml", "-i"], "--interactive is one VM's; 2 are described"),
    (["--device", "hello"], "--device is `hello`, no kind of device; it takes dma or ring, and FILE comes before it"),
])
def test_what_cannot_be_interactive_is_said_in_a_line(capsys, monkeypatch, arguments, said):
    monkeypatch.setattr(raw_terminal.sys, "stdin", open(os.devnull, encoding="utf-8"))      # noqa: SIM115
    assert cli.main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


