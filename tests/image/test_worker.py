"""A child that is kept warm serves each program as a fresh one would."""

import os
import sys
from pathlib import Path

import pytest

from hv.image import worker
from hv.image.worker import Worker, WorkerDied, kept_warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps it warm")

BATCH = [(16, "hlt"), (64, "hlt"), (64, "nosuch")]       # two answers and a complaint


def served(batch=BATCH):
    with Worker() as one:
        return one._started().pid, one.assemble(batch)


def test_one_process_serves_one_program_after_the_other():
    with kept_warm():
        (first, one), (second, two) = served(), served()
    assert first == second
    assert one == two == served()[1]
    assert one[:2] == [b"\xf4", b"\xf4"]
    assert not Path(f"/proc/{first}").exists()


def test_without_it_each_program_has_its_own():
    assert served()[0] != served()[0]
    assert worker._warm is None


def test_what_one_program_does_to_keystone_ends_with_it():
    with kept_warm():
        first, _ = served()
        with Worker() as one:
            process = one._started()
            assert process.pid == first
            one.assemble([(64, "hlt")])
            child = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            os.kill(int(child[0]), 11)
            with pytest.raises(WorkerDied) as death:
                one.assemble(BATCH)
            assert death.value.number == 0
        second, answers = served()
        assert second != first
        assert answers[0] == b"\xf4"


def test_a_program_that_uses_no_assembler_changes_nothing():
    with kept_warm():
        with Worker():
            pass
        assert worker._warm == []


def test_it_is_not_kept_when_an_answer_is_outstanding(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with kept_warm():
        with monkeypatch.context() as patch:
            patch.setattr(worker.json, "dumps", interrupted)
            with pytest.raises(KeyboardInterrupt):
                served()
        assert worker._warm == []
        assert served()[1][0] == b"\xf4"


def test_keeping_it_warm_twice_is_keeping_it_warm():
    with kept_warm():
        first, _ = served()
        with kept_warm():
            assert served()[0] == first
        assert served()[0] == first
