"""hv bench: its shape and its medians; the numbers themselves are never asserted."""

import json

from hv import cli
from hv.commands import baseline, bench, workloads
from hv.commands.metrics import METRICS, Metric

ASKED_FOR = {
    "guest_integer_ratio", "guest_store_ratio", "cpuid_exit_us", "msr_exit_us", "hypercall_us", "device_interrupt_us",
    "partition_create_ms", "partition_rss_mb", "import_ms", "cli_help_ms", "demo_s",
}


def counted(values, name="speed_us", goal=2.0):
    iterator = iter(values)
    return Metric(name, "us", goal, "a test", lambda: next(iterator))


def test_every_number_that_was_asked_for_is_there():
    assert {metric.name for metric in METRICS} == ASKED_FOR


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
