"""Guests in C: compiled and linked by the `ziglang` package, where it is installed, into an ELF that is loaded as any.

A program is one file with `main`; `guests/include/` has `hv.h`, what stands below main, and the linker script. It may
include what lies in its folder, and nothing else. The same source gives the same bytes: no path, time or random name
goes into them.

For programs of one's own only: a compiler reads what it is told to, so grading takes no C (docs/labs.md).
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from hv.image.elf import load_elf
from hv.image.errors import ImageError
from hv.image.library import guests_folder
from hv.image.model import Image
from hv.image.source import read_text

TIME_LIMIT = 60.0               # seconds of the host for one step
INSTALL = "pip install 'hvlab[cguests]', or write it in assembly"
_COMPILE = ("cc", "-target", "x86_64-freestanding-none", "-std=gnu17", "-ffreestanding", "-nostdinc", "-fno-pic", "-O1",
            "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector", "-fno-sanitize=all",
            "-fno-asynchronous-unwind-tables", "-fno-color-diagnostics", "-fno-caret-diagnostics", "-ferror-limit=5",
            "-g0", "-MD", "-MF", "read.d")
_LINK = ("ld.lld", "-static", "--no-pie", "--build-id=none", "--color-diagnostics=never")
_AT = re.compile(r"(?P<file>[^\n:]+):(?P<line>\d+):(?P<column>\d+): (?:fatal )?error: (?P<says>.*)")
_UNDEFINED = re.compile(r"error: undefined symbol: (?P<name>.*)")
_LINKER = re.compile(r"error: (?P<says>.*)")
_READ = re.compile(r"(?:\\.|[^\s\\])+")     # a file in what the compiler says it has read
_QUOTED = re.compile(r"'([^']*)'")
# The compiler's words, ours, and what to do about it.
_WORDS = (
    (r"use of undeclared identifier '(.*?)'", "`{0}` is not declared", "check the spelling; hv.h lists what there is"),
    (r"call to undeclared function '(.*?)'.*", "the function `{0}` is not declared",
     "check the spelling; hv.h lists what there is, and there is no C library"),
    (r"'(.*?)' file not found", "there is no file `{0}` to include",
     "there is no C library in a guest; hv.h has what there is, and your own files lie beside the program"),
    (r"expected '(.*?)'.*", "`{0}` is missing here, or in the line before", ""),
    (r"expected expression", "a value is missing here", ""),
    (r"expected identifier.*", "a name is missing here", ""),
    (r"extraneous closing brace.*", "this `}}` closes nothing", ""),
    (r"unknown type name '(.*?)'.*", "`{0}` is no type", "hv.h has u8, u16, u32 and u64"),
    (r"redefinition of '(.*?)'", "`{0}` is defined twice", ""),
    (r"(.*SSE register.*|.*'x86' target.*|.*requires '.*' target feature.*|.*type '(?:float|double)'.*)",
     "floating-point numbers are not available in guests", "count in whole numbers"),
)


def is_available() -> bool:
    """The compiler is installed."""
    return importlib.util.find_spec("ziglang") is not None


def load_c(path: Path) -> Image:
    """The C program in *path*, compiled; ImageError says what is wrong with it, with line and column."""
    text, shared = read_text(path), guests_folder()
    if ".incbin" in text:
        line = text[: text.index(".incbin")].count("\n") + 1
        raise ImageError(f"{path.name}:{line}: .incbin reads any file", "write the bytes as an array", line)
    if not is_available():
        raise ImageError(f"{path.name} is C, and no compiler for it is installed", INSTALL)
    if shared is None or not (shared / "include").is_dir():
        raise ImageError("guests/include is missing", "reinstall hvlab")
    with tempfile.TemporaryDirectory(prefix="hvlab-c-") as scratch:
        return load_elf(_build(text, path, shared / "include", Path(scratch)), path.name)


def _build(text: str, path: Path, include: Path, scratch: Path) -> bytes:
    """The linked program. Both sources are copied, so that no name of a folder is compiled in."""
    place = scratch / "program"
    place.mkdir()
    name = path.name if path.name != "start.c" else "main.c"
    (place / name).write_text(text, encoding="utf-8")
    (place / "start.c").write_text((include / "start.c").read_text(encoding="utf-8"), encoding="utf-8")
    for source, target in ((name, "program.o"), ("start.c", "start.o")):
        _run((*_COMPILE, f"-I{include}", f"-iquote{path.parent.resolve()}", "-c", source, "-o", target), place, path)
        _check_read((place / "read.d").read_text(encoding="utf-8", errors="replace"), place, path)
    _run((*_LINK, "-T", str(include / "guest.ld"), "-o", "program.elf", "start.o", "program.o"), place, path)
    return (place / "program.elf").read_bytes()


def _check_read(said: str, place: Path, path: Path) -> None:
    """The compiler read nothing but the program's own folder and ours; ImageError."""
    for name in _READ.findall(said.partition(":")[2].replace("\\\n", " ")):
        _check_inside(name.replace("\\ ", " "), place, path)


def _check_inside(name: str, place: Path, path: Path) -> None:
    shared = guests_folder() or place
    file = (place / name).resolve()
    if not any(file.is_relative_to(folder.resolve()) for folder in (place, path.parent, shared)):
        raise ImageError(f"{path.name} includes `{name}`, which lies outside of its folder",
                         "copy it beside the program")


def _run(words: tuple[str, ...], place: Path, path: Path) -> None:
    """One step; ImageError when it is not done."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP") if name in os.environ}
    cache = str(place.parent / "cache")
    try:
        done = subprocess.run([sys.executable, "-P", "-m", "ziglang", *words], cwd=place, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=TIME_LIMIT, check=False,
                              env=kept | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, "LC_ALL": "C",
                                          "HOME": cache})
    except subprocess.TimeoutExpired:
        raise ImageError(f"{path.name}: the compiler took more than {TIME_LIMIT:.0f} s", "make it smaller") from None
    except OSError as error:
        raise ImageError(f"the compiler cannot be started: {error.strerror}", INSTALL) from None
    if done.returncode:
        raise _problem(done.stderr.decode("utf-8", "replace"), place, path)


def _problem(said: str, place: Path, path: Path) -> ImageError:
    """The first thing that is wrong, in a learner's words."""
    found = _AT.search(said)
    if found is not None:
        _check_inside(found["file"], place, path)
        message, hint = _told(found["says"])
        file = path.name if found["file"] in (path.name, "main.c") else Path(found["file"]).name
        return ImageError(f"{file}:{found['line']}:{found['column']}: {message}", hint, int(found["line"]))
    undefined = _UNDEFINED.search(said)
    if undefined is not None:
        name = undefined["name"]
        return ImageError(f"{path.name}: `{name}` is used, and defined nowhere" if name != "main" else
                          f"{path.name}: there is no function `main`, where a guest in C begins", "")
    other = _LINKER.search(said)
    return ImageError(f"{path.name}: {other['says'] if other else 'the compiler failed and does not say why'}", "")


def _told(says: str) -> tuple[str, str]:
    for theirs, ours, hint in _WORDS:
        found = re.fullmatch(theirs, says)
        if found is not None:
            return ours.format(*found.groups()), hint
    return _QUOTED.sub(r"`\1`", says), ""
