"""A learner's EPT walk is compared with the processor's, on real tables and on tables nobody knows."""

import pytest

from hv.lab import runner
from hv.lab.checks import Mark
from hv.lab.errors import LabError
from hv.lab.exercise import read
from hv.lab.pieces import mistake, random_tables, truth, walked
from hv.lab.sandbox.piece import Piece
from hv.vmx.translation.ept_walk import walk
from tests.lab.exercises import LABS
from tests.lab.folders import HALTS, a_lab, verdict_on

FOLDER = LABS / "17_ept_walk"
SOLUTION = (FOLDER / "solution/ept_walk.py").read_text()


def lab():
    return read(FOLDER)


def judged(tmp_path, source):
    place = tmp_path / "ept_walk.py"
    place.write_bytes(source if isinstance(source, bytes) else source.encode())
    return runner.check(lab(), place)


def test_random_tables_meet_every_kind_of_entry():
    memory, eptp, gpas = random_tables(7, 64)
    found = [walk(memory, eptp, gpa) for gpa in gpas]
    assert {one.page_size for one in found if one.spa is not None} == {1 << 12, 1 << 21, 1 << 30}
    assert {len(one.entries) for one in found if one.spa is None} >= {1, 2, 3, 4}
    assert not any(one.misconfigured for one in found)
    assert any(one.entries[-1].entry.raw and one.spa is None for one in found)
    assert any(one.entries[-1].entry.raw >> 52 for one in found)
    assert len({int(one.rights) for one in found}) > 3


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_makes_the_same_tables(seed):
    assert random_tables(seed, 32) == random_tables(seed, 32)
    assert random_tables(seed, 32) != random_tables(seed + 7, 32)


def test_a_right_walk_agrees_with_the_processor_everywhere():
    with Piece(SOLUTION) as piece:
        for seed in range(3):
            memory, eptp, gpas = random_tables(seed, 40)
            for gpa in gpas:
                outcome, reads = walked(piece, memory, eptp, gpa)
                found, wanted = truth(memory, eptp, gpa)
                assert outcome.value == wanted
                assert reads == [step.spa for step in found.entries]


def test_what_is_wrong_with_a_walk_is_named():
    memory, eptp, gpas = random_tables(3, 64)
    found = next(one for one in (walk(memory, eptp, gpa) for gpa in gpas)
                 if one.page_size == 1 << 21 and one.spa is not None and one.spa % 4096)
    spa, rights = found.spa, int(found.rights)
    assert mistake(found, [spa, rights]) == ""
    assert mistake(found, None) == "nothing is said to be mapped, where something is"
    assert mistake(found, [spa & -found.page_size, rights]) == "the offset in the page is missing"
    assert mistake(found, [spa + 8, rights]) == "another physical address"
    assert mistake(found, [spa, rights ^ 7]) in ("other rights", "the rights of the last entry alone")
    for nonsense in (5, "x", [spa], [spa, rights, 0], [None, 1], [True, 1]):
        assert mistake(found, nonsense) == "no pair of physical address and rights"


REFUSED = {
    "syntax": ("def walk(:\n", "ept_walk.py:1:10: invalid syntax"),
    "raises-at-once": ("x = 1 / 0\n", "ept_walk.py:1: raised ZeroDivisionError"),
    "binary": (b"\xff\xfe", "not UTF-8"),
    "another-room": ("import unicorn\n", "ept_walk.py:1: raised ModuleNotFoundError"),
}


@pytest.mark.parametrize(("source", "says"), REFUSED.values(), ids=REFUSED)
def test_a_piece_that_cannot_be_read_is_refused_in_one_line(tmp_path, source, says):
    verdict = judged(tmp_path, source)
    assert says in verdict.refused
    assert "\n" not in verdict.refused
    assert "Traceback" not in verdict.refused


FOUND = {
    "no-function": ("walk = 1\n", "ept_walk.py: there is no function `walk`"),
    "wrong-parameters": ("def walk(gpa): return None\n", "raised TypeError"),
    "raises": ("def walk(eptp, gpa, read_u64):\n    return [][0]\n", "ept_walk.py:2: raised IndexError"),
    "odd-address": ("def walk(eptp, gpa, read_u64):\n    return read_u64(3)\n", "a multiple of 8; found 3"),
    "no-number": ("def walk(eptp, gpa, read_u64):\n    return read_u64('x')\n", "takes a physical address"),
    "loop": ("def walk(eptp, gpa, read_u64):\n    n = 0\n    while True:\n        n += 1\n",
             "is there a loop that does not end?"),
    "exit": ("import os\ndef walk(eptp, gpa, read_u64):\n    os._exit(0)\n", "ept_walk.py: "),
    "no-pair": ("def walk(eptp, gpa, read_u64):\n    return 'x' * 999\n", "no pair of physical address and rights"),
}


@pytest.mark.parametrize(("source", "says"), FOUND.values(), ids=FOUND)
def test_what_a_piece_does_instead_is_found(tmp_path, source, says):
    finding = judged(tmp_path, source).findings[0]
    assert says in finding.found
    assert len(finding.found) < 300
    assert "Traceback" not in finding.found


def test_the_entries_that_were_not_read_are_missing_and_others_bad(tmp_path):
    source = "def walk(eptp, gpa, read_u64):\n    read_u64(eptp & ~0xFFF)\n    read_u64(0x10)\n    return None\n"
    marks = [mark for mark, _ in judged(tmp_path, source).findings[0].lines]
    assert marks == [Mark.GOOD, Mark.MISSING, Mark.MISSING, Mark.BAD, Mark.BAD, Mark.MISSING]


def test_a_walk_that_reads_too_much_is_told_how_much(tmp_path):
    source = SOLUTION.replace("    for shift", "    [read_u64(8 * n) for n in range(9)]\n    for shift")
    verdict = judged(tmp_path, source)
    assert [finding.passed for finding in verdict.findings[:3]] == [True, True, False]
    assert "walk reads one entry a level" in verdict.findings[2].message


def test_outside_of_ram_all_bits_are_ones():
    with Piece("def walk(eptp, gpa, read_u64): return read_u64(1 << 50)") as piece:
        memory, eptp, _ = random_tables(1, 1)
        assert walked(piece, memory, eptp, 0)[0].value == (1 << 64) - 1


@pytest.mark.parametrize(("text", "says"), [
    ('program = "g.asm"\n' + HALTS, "of kind python are of kind walk"),
    ('program = "g.asm"\n[[checks]]\nname = "w"\nkind = "walk"\n', "needs gpas, or a number of random ones"),
    ('[[checks]]\nname = "w"\nkind = "walk"\nrandom = 3\n', "`program` is missing"),
])
def test_a_lab_of_python_that_makes_no_sense_is_refused(tmp_path, text, says):
    with pytest.raises(LabError, match=says):
        a_lab(tmp_path, text, kind="python", file="a.py")


def test_a_walk_may_be_asked_of_any_vm(tmp_path):
    more = '[[machine.vm]]\nname = "b"\nprogram = "receiver.asm"\nmemory_mib = 4\n'
    check = '[[checks]]\nname = "w"\nkind = "walk"\ngpas = [0x10123]\n'
    for vm in ("lab", "b"):
        exercise = a_lab(tmp_path, f'program = "g.asm"\n{more}{check}vm = "{vm}"\n', kind="python", file="a.py",
                         g__asm="start: hlt\n")
        assert verdict_on(exercise, SOLUTION).passed
