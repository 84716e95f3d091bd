"""hv bench: its shape and its medians; the numbers themselves are never asserted."""

import json

import pytest

from hv import cli
from hv.commands import baseline, bench, workloads
from hv.commands.metrics import METRICS, Metric

ASKED_FOR = {
    "guest_integer_ratio", "guest_store_ratio", "cpuid_exit_us", "msr_exit_us", "hypercall_us", "vmentry_check_us",
    "device_interrupt_us", "partition_create_ms", "partition_rss_mb", "import_ms", "cli_help_ms", "demo_s",
    "exits_per_interrupt", "post_message_us", "signal_event_us", "stimer_jitter", "grade_per_s_per_core",
    "replay_go_ms", "replay_record_ratio", "step_key_ms", "lab_check_ms", "python_grade_per_s",
    "smp_lock_handoffs_per_s", "ipi_us",
    "io_exit_us", "mmio_exit_us", "device_mmio_us", "timer_interrupt_us",
    "idle_vps_ratio", "flush_hypercall_us", "parallel_speedup_ratio",
    "dma_page_us",
}


def counted(values, name="speed_us", goal=2.0):
    iterator = iter(values)
    return Metric(name, "us", goal, "a test", lambda: next(iterator))


def test_every_number_that_was_asked_for_is_there():
    assert {metric.name for metric in bench.choose(None)} == ASKED_FOR


def test_the_value_is_the_median_of_the_rounds():
    metric = counted([(9.0, 1.0), (1.0, 3.0), (2.0, 2.0)])
    assert bench.measure([metric], 3, progress=False) == {
        "speed_us": {"value": 2.0, "unit": "us", "goal": 2.0, "baseline": 2.0}}


def test_rounds_are_interleaved():
    order = []

    def noting(name):
        return Metric(name, "us", 1.0, "", lambda: (order.append(name), (1.0, None))[1])

    bench.measure([noting("a"), noting("b")], 3, progress=False)
    assert order == ["a", "b"] * 3


def test_a_ratio_reaches_its_goal_from_above_and_a_time_from_below():
    ratio, time = counted([], "x_ratio", 0.7), counted([], "x_us", 2.5)
    assert [bench.reached(ratio, value) for value in (0.8, 0.6, None)] == [True, False, False]
    assert [bench.reached(time, value) for value in (2.4, 2.6, None)] == [True, False, False]


def test_what_cannot_be_measured_here_has_no_value():
    assert bench.rounded([float("nan")]) is None
    assert bench.rounded([]) is None
    assert bench.rounded([1.23456]) == 1.235


def test_the_json_has_value_unit_goal_and_baseline(capsys):
    wanted = ["--only", "partition_create_ms", "--only", "hypercall_us"]
    assert cli.main(["bench", "--json", "--rounds", "1", *wanted]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert set(metrics) == {"partition_create_ms", "hypercall_us"}
    assert all(set(metric) == {"value", "unit", "goal", "baseline"} for metric in metrics.values())
    assert metrics["hypercall_us"]["baseline"] > 0


def test_the_table_says_what_is_missed(capsys):
    metric = counted([])
    bench.show([metric], {"speed_us": {"value": 3.0, "unit": "us", "goal": 2.0, "baseline": None}}, plain=True)
    out = capsys.readouterr().out
    assert "missed" in out
    assert "speed_us: a test" in out


def test_the_baseline_runs_the_same_machine_code_as_the_guest():
    """Else the ratio would compare two programs."""
    code = workloads.bare(workloads.INTEGER_LOOP)[:-1]
    assert any(code in segment.data for segment in workloads.guest(workloads.INTEGER_LOOP, 5).segments)
    assert baseline.seconds(workloads.STORE_LOOP, 1) > 0


def test_the_device_guest_takes_each_interrupt_once():
    """The measurement itself asserts it: as many interrupts taken as sent."""
    metric = next(metric for metric in METRICS if metric.name == "device_interrupt_us")
    value, _ = metric.measure()
    assert value > 0


@pytest.mark.parametrize(("name", "goal", "value", "ok"), [
    ("x_per_s", 100, 100, True), ("x_per_s", 100, 99, False),
    ("x_ratio", 0.7, 0.7, True), ("x_ratio", 0.7, 0.69, False), ("x_us", 2.5, 2.5, True), ("x_us", 2.5, 2.51, False),
])
def test_a_goal_is_reached_at_its_very_value(name, goal, value, ok):
    assert bench.reached(counted([], name, goal), value) is ok


@pytest.mark.parametrize(("rounds", "code"), [("0", 2), ("1001", 2), ("-1", 2)])
def test_rounds_have_a_range(capsys, rounds, code):
    assert cli.main(["bench", "--rounds", rounds, "--only", "import_ms"]) == code
    assert f"--rounds is {rounds}; expected 1..1000" in capsys.readouterr().err


def test_metrics_are_chosen_by_name_in_their_own_order(capsys):
    names = [metric.name for metric in bench.choose(["hypercall_us", "cpuid_exit_us"])]
    assert names == ["cpuid_exit_us", "hypercall_us"]
    assert len(bench.choose(None)) == len(METRICS)
    assert cli.main(["bench", "--only", "nosuch"]) == 2
    assert "`nosuch` is no metric; expected one of guest_integer_ratio" in capsys.readouterr().err


def test_each_row_of_the_table_has_value_goal_and_baseline(capsys):
    metrics = [counted([], "x_ratio", 0.7), counted([], "x_us", 2.0)]
    results = {"x_ratio": {"value": 0.9, "baseline": 1.0}, "x_us": {"value": 3.0, "baseline": None}}
    bench.show(metrics, results, plain=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "at " in line]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows == [["x_ratio", "0.9 us", "at least 0.7", "ok", "1.0"], ["x_us", "3.0 us", "at most 2.0", "missed", ""]]


def test_progress_is_shown_where_it_is_asked_for(capsys):
    metrics = [counted([(1.0, None)] * 2, "x_us"), counted([(1.0, None)] * 2, "y_us")]
    assert [metric.name for metric in bench.steps(metrics, 2, progress=True)] == ["x_us", "y_us", "x_us", "y_us"]
    assert capsys.readouterr().out == ""
