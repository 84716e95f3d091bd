"""The parent of the process a piece runs in: when that ends, or the caller lets go, nothing of it is left running.

It never runs a piece. It adopts what its child leaves behind (a process that makes itself a daemon becomes its child),
and holds one end of a pipe, the leash: when the other end is closed, by will or because the caller died, it kills all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal

_SET_CHILD_SUBREAPER = 36


def keep(leash: int) -> int:
    """Fork. In the child: return the id of the keeper. In the keeper: stay, and end with the child's exit code."""
    keeper = os.getpid()
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        os.close(leash)
        os.setpgid(0, 0)
        return keeper
    _close_all_but(leash)
    code = _wait(child, leash)
    kill_descendants(child)
    os._exit(code)


def _close_all_but(kept: int) -> None:
    """The caller must see the end of the pipes when the child ends."""
    os.closerange(0, kept)
    os.closerange(kept + 1, 256)


def _wait(child: int, leash: int) -> int:
    """The child's exit code, 128 and more for a signal; 255 when the caller let go first."""
    watched = os.pidfd_open(child)
    ready, _, _ = select.select([watched, leash], [], [])
    if watched not in ready:
        return 255
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)     # not reaped yet: its group keeps its number
    assert ended is not None, "the child ended, and cannot be asked how"
    return min(ended.si_status, 127) if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def kill_descendants(group: int) -> None:
    """Kill the *group* in one stroke, which no fork survives; then all children, until they leave none behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own = str(os.getpid())
    return [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _parent(pid) == own]


def _parent(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[1].decode()
    except (OSError, IndexError):       # it is gone
        return ""
