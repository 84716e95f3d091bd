"""The keeper leaves nothing running, also where no filter keeps a piece from starting processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hv

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the keeper is Linux's")

FAMILY = """
import os, signal, sys, time
sys.path.append(sys.argv[1])
from hv.lab.sandbox.keeper import keep
out = os.dup(1)
keep(int(sys.argv[2]))
reader, writer = os.pipe()
for generation in range(4):             # each is a daemon: a session of its own, and its parent gone
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.write(out, b'%d ' % os.getpid())
            os.write(writer, b'.')
            time.sleep(1000)
        os._exit(0)
for _ in range(4):
    os.read(reader, 1)
{end}
"""


def family(end):
    """The ids of the daemons, and the keeper's exit code; *end* is how the child ends."""
    leash, held = os.pipe()
    with subprocess.Popen([sys.executable, "-I", "-c", FAMILY.format(end=end), str(Path(hv.__file__).parents[1]),
                           str(leash)], stdout=subprocess.PIPE, pass_fds=(leash,), start_new_session=True) as process:
        os.close(leash)
        pids = b""
        while pids.count(b" ") < 4 and (more := os.read(process.stdout.fileno(), 100)):
            pids += more
        if not end.startswith("os."):
            os.close(held)
            held = None
        code = process.wait(20)
    if held is not None:
        os.close(held)
    return pids.split(), code


ENDS = {"exits": ("os._exit(7)", 7), "is-killed": ("os.kill(os.getpid(), 9)", 137),
        "is-let-go": ("time.sleep(1000)", 255)}


@pytest.mark.parametrize(("end", "code"), ENDS.values(), ids=ENDS)
def test_daemons_die_with_the_process_that_made_them(end, code):
    pids, found = family(end)
    assert (len(pids), found) == (4, code)
    assert [pid for pid in pids if Path(f"/proc/{int(pid)}").exists()] == []
