"""The hash of a run is the same for the same run, and another for any other."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from hv.lab.checks import Happening
from hv.lab.evidence import trace_hash
from hv.trace.events import Cpuid, MsrWrite
from tests.lab.exercises import SOLUTION, FakeRun, first_exit, judged

EVENTS = [Happening("a.asm:3", Cpuid(1, 0, (1, 2, 3, 4))), Happening("", MsrWrite(0x10, 5))]
RUN = FakeRun(happened=EVENTS)


def test_equal_runs_have_one_hash():
    assert trace_hash(RUN, ["lab"]) == trace_hash(FakeRun(happened=list(EVENTS)), ["lab"])


OTHERS = {
    "order": FakeRun(happened=EVENTS[::-1]),
    "fewer": FakeRun(happened=EVENTS[:1]),
    "field": FakeRun(happened=[Happening("a.asm:3", Cpuid(1, 0, (1, 2, 3, 5))), EVENTS[1]]),
    "place": FakeRun(happened=[replace(EVENTS[0], place="a.asm:4"), EVENTS[1]]),
    "vp": FakeRun(happened=[replace(EVENTS[0], vp=1), EVENTS[1]]),
    "vm": FakeRun(happened=[replace(EVENTS[0], vm="other"), EVENTS[1]]),
    "class": FakeRun(happened=[EVENTS[0], Happening("", Cpuid(0x10, 5, ()))]),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_whatever_is_told_is_in_the_hash(other):
    assert trace_hash(other, ["lab"]) != trace_hash(RUN, ["lab"])


def test_what_has_no_form_of_its_own_is_refused():
    with pytest.raises(TypeError, match="an event holds a object"):
        trace_hash(FakeRun(happened=[Happening("", MsrWrite(0x10, object()))]), ["lab"])


def test_a_run_in_another_process_with_another_hash_seed_has_the_same_hash(tmp_path):
    here = judged(tmp_path, SOLUTION).trace_sha256
    code = ("import sys; from pathlib import Path; from hv.lab import exercise, runner; "
            "print(runner.check(exercise.read(Path(sys.argv[1])), Path(sys.argv[2])).trace_sha256)")
    other = tmp_path / "other"
    other.mkdir()
    (other / "first_exit.asm").write_text(SOLUTION)
    out = subprocess.run([sys.executable, "-c", code, str(first_exit().folder), str(other / "first_exit.asm")],
                         env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == here
    assert len(here) == 64
    assert json.dumps(here) != json.dumps(judged(tmp_path, SOLUTION.replace("hlt", "nop\n hlt")).trace_sha256)


def test_what_was_never_run_has_no_hash(tmp_path):
    assert judged(tmp_path, "start: mvo\n").trace_sha256 == ""
