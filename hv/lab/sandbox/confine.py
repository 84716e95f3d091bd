"""Everything a process gives up before it runs a piece, in an order in which each step can still be taken."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import sysconfig
from collections.abc import Callable

from hv.lab.sandbox import landlock, seccomp
from hv.lab.sandbox.limits import Limits

_SET_PDEATHSIG, _CAPBSET_DROP, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 24, 4, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_INSTALLED = ("site-packages", "dist-packages", "test", "idlelib", "__pycache__")

RLIMITS, LANDLOCK, NETWORK, SECCOMP, UNPRIVILEGED, BUBBLEWRAP = (
    "rlimits", "landlock", "landlock-network", "seccomp", "no-capabilities", "bubblewrap")
ALL = (RLIMITS, LANDLOCK, NETWORK, SECCOMP, UNPRIVILEGED, BUBBLEWRAP)


def standard_library() -> list[str]:
    """The files and folders of Python's own library, without what was installed into it."""
    folder = sysconfig.get_path("stdlib")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name not in _INSTALLED]


def confine(limits: Limits, scratch: str, parent: int) -> list[str]:
    """Leave this process what a piece needs. Answers the protections that are on."""
    on = [RLIMITS] if _rlimits(limits) else []
    if sys.platform != "linux":
        return on
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:          # it died before the line above
        os._exit(1)
    prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    if _drop_capabilities(prctl):
        on.append(UNPRIVILEGED)
    prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = landlock.confine(standard_library(), [scratch])
    on += [LANDLOCK] * (version >= 1) + [NETWORK] * (version >= 4)
    if seccomp.confine():
        on.append(SECCOMP)
    return on


def _rlimits(limits: Limits) -> bool:
    try:
        import resource
    except ImportError:                 # no POSIX host
        return False
    wanted = {"RLIMIT_CPU": limits.cpu_seconds, "RLIMIT_AS": limits.memory_mib << 20, "RLIMIT_CORE": 0,
              "RLIMIT_FSIZE": limits.file_bytes, "RLIMIT_NOFILE": limits.open_files, "RLIMIT_MEMLOCK": 0,
              "RLIMIT_MSGQUEUE": 0, "RLIMIT_NPROC": limits.processes if os.getuid() == 0 else _threads(limits)}
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        _, hard = resource.getrlimit(kind)
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (least, least))
        except (OSError, ValueError):   # macOS does not know a limit of address space
            if name not in ("RLIMIT_AS", "RLIMIT_NPROC"):
                raise
    return True


def _threads(limits: Limits) -> int:
    """The limit counts all processes of the user, so it begins at those there are."""
    try:
        own = sum(os.stat(f"/proc/{name}").st_uid == os.getuid() for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        own = 256
    return own * 4 + limits.processes


def _drop_capabilities(prctl: Callable[..., int]) -> bool:
    """No capability now, and none after an exec."""
    import platform

    for number in range(64):
        prctl(_CAPBSET_DROP, number, 0, 0, 0)
    call = _CAPSET.get(platform.machine())
    if call is None:
        return False
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(call), header, nothing)) == 0
