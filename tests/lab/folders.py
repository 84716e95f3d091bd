"""Exercises that tests write themselves, a folder each."""

from pathlib import Path
from typing import Any

from hv.lab.exercise import Exercise, read
from hv.lab.runner import Verdict, check

HEAD = 'title = "t"\nkind = "{kind}"\nfile = "{file}"\nstarter_says = "no"\nhints = ["a", "b", "c"]\n'
HALTS = '[[checks]]\nname = "it halts"\nkind = "ended"\nhow = "halt"\n'


def lab_folder(folder: Path, description: str, kind: str = "guest", file: str = "a.asm", **files: str) -> Path:
    """A folder with a lab.toml: the usual head, then *description*; and *files*, `name__asm="..."` for name.asm."""
    place = folder / "01_it"
    place.mkdir(parents=True, exist_ok=True)
    (place / "lab.toml").write_text(HEAD.format(kind=kind, file=file) + description)
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text)
    return place


def a_lab(folder: Path, description: str, **more: Any) -> Exercise:
    """The exercise of `lab_folder`."""
    return read(lab_folder(folder, description, **more))


def verdict_on(exercise: Exercise, text: str) -> Verdict:
    """What comes of *text*, handed in."""
    place = exercise.folder.parent / exercise.data.file
    place.write_text(text)
    return check(exercise, place)
