"""A class is graded by a cluster that loses a worker in the middle: nothing lost, nothing twice."""

import os
import signal

import pytest

from hv.lab.errors import LabError
from hv.lab.grading import submissions
from hv.lab.journal import Journal
from hv.lab.whole_class import Here, grade_all
from tests.lab.classes import a_class_of_variants
from tests.lab.exercises import LABS, SOLUTION, first_exit

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

from hv.lab.cluster import Cluster  # noqa: E402  it needs what may not be installed

FIRST = first_exit()
CLASS, LARGE_CLASS = 200, 2000          # submissions; the large one with `--full-size`


@pytest.fixture(scope="module")
def address():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def cluster(address):
    one = Cluster.at(address, FIRST)
    yield one
    one.close()


def pids(cluster):
    return sorted(cluster.client.run(os.getpid).values())


def test_a_cluster_answers_what_one_process_does(cluster):
    wrong = submissions([LABS / "01_first_exit/wrong"], FIRST)
    assert grade_all(FIRST, wrong, cluster) == grade_all(FIRST, wrong, Here(FIRST))


def test_what_cannot_be_sent_is_graded_here(cluster, tmp_path):
    (tmp_path / "link.asm").symlink_to(FIRST.solution)
    (tmp_path / "one.asm").write_text(SOLUTION)
    link, one = grade_all(FIRST, submissions([tmp_path], FIRST), cluster)
    assert link.message == "link.asm is a symbolic link; hand in the file itself"
    assert one.passed


def test_each_is_graded_by_the_variant_of_its_student(address, tmp_path):
    exercise, handed_in = a_class_of_variants(tmp_path, b"seed")
    one = Cluster.at(address, exercise, b"seed")
    assert [result.passed for result in grade_all(exercise, handed_in, one)] == [True, True, False]
    one.close()


@pytest.mark.timeout(300)
def test_a_class_survives_a_killed_worker(cluster, tmp_path, full_size):
    (tmp_path / "class").mkdir()
    size = LARGE_CLASS if full_size else CLASS
    for number in range(size):
        (tmp_path / f"class/s{number:04}.asm").write_text(f"{SOLUTION}\n    .long {number}\n")
    handed_in, heard = submissions([tmp_path / "class"], FIRST), []

    def told(number, result):
        heard.append(number)
        if len(heard) == size // 3:
            os.kill(pids(cluster)[0], signal.SIGKILL)

    with Journal(tmp_path / "report") as journal:
        results = grade_all(FIRST, handed_in, cluster, journal, told)
    assert sorted(heard) == list(range(size))
    assert [result.submission for result in results] == [one.name for one in handed_in]
    assert all(result.passed for result in results)
    with Journal(tmp_path / "report") as journal:
        assert (len(journal.results), journal.notes) == (size, [])


def test_an_address_where_nobody_is_is_said(monkeypatch):
    monkeypatch.setattr("hv.lab.cluster._CONNECT_SECONDS", 1)
    with pytest.raises(LabError, match="no scheduler answers at tcp:"):
        Cluster.at("tcp://127.0.0.1:1", FIRST)
