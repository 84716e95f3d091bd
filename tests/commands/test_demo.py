"""hv demo: every check is true, and each becomes false when what it claims did not happen."""

import json
from dataclasses import replace

import pytest

from hv import cli
from hv.commands import checks, demo, story
from hv.trace import events


@pytest.fixture(scope="module")
def told():
    found = story.tell()
    yield found
    found.machine.close()


def results_without(told, unwanted):
    """The checks of the same story without the events that *unwanted* says."""
    return {check.name: check.ok for check in checks.check(
        replace(told, records=[record for record in told.records if not unwanted(record)]))}


def test_every_check_is_true_and_has_evidence(told):
    results = checks.check(told)
    assert [result.name for result in results if not result.ok] == []
    assert all(result.evidence for result in results)
    assert len(results) >= 15


@pytest.mark.parametrize(("name", "kind"), [
    ("root makes its children by hypercalls", events.Hypercall),
    ("A and B run interleaved", events.VpSwitch),
    ("CPUID exits, and the hypervisor answers with its name", events.Cpuid),
    ("RDMSR and WRMSR exit, and are answered", events.MsrWrite),
    ("VMCALL exits, and A's hypercalls succeed", events.Hypercall),
    ("every message of A reaches B, in order", events.MessageDelivered),
    ("the device's interrupt arrives in A", events.Injected),
    ("the device's interrupt does not arrive in B", events.InterruptRouted),
    ("DMA of A's device lands in A's page", events.Dma),
    ("none of the attacker's hypercalls succeeds", events.Hypercall),
    ("the IOMMU refuses the attacker's DMA", events.DmaFault),
])
def test_a_check_is_false_without_the_events_it_is_about(name, kind, told):
    assert not results_without(told, lambda record: isinstance(record.event, kind))[name]


def test_a_changed_byte_of_memory_is_noticed(told):
    page = next(iter(told.after.root))
    changed = replace(told.after, a="0" * 64, b="0" * 64, root={**told.after.root, page: b"other"})
    results = {check.name: check.ok for check in checks.check(replace(told, after=changed))}
    for whose in ("A's", "B's", "root's"):
        assert not results[f"{whose} memory is as it was before the attack"]


def test_a_device_interrupt_in_b_is_noticed(told):
    stray = replace(told.records[-1], partition=told.b.partition_id, event=events.Injected(story.DEVICE_VECTOR, 0))
    results = {check.name: check.ok for check in checks.check(replace(told, records=[*told.records, stray]))}
    assert not results["the device's interrupt does not arrive in B"]


def test_the_story_is_told_in_plain_text(told, capsys):
    demo.show(told, checks.check(told), plain=True)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= demo.WIDTH
    for part in ("CREATE_PARTITION", "InterruptRouted", "create a partition", "refused, status 0x6", "are true."):
        assert part in out
    assert "FALSE" not in out


def test_the_json_lists_the_checks(told, capsys, monkeypatch):
    monkeypatch.setattr(story, "tell", lambda: told)
    monkeypatch.setattr(told.machine, "close", lambda: None)
    assert cli.main(["demo", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checks"]
    assert len(listed) == 16
    assert all(set(check) == {"name", "ok", "evidence"} and check["ok"] is True for check in listed)


def test_a_false_check_is_exit_code_1(told, capsys, monkeypatch):
    monkeypatch.setattr(story, "tell", lambda: told)
    monkeypatch.setattr(told.machine, "close", lambda: None)
    monkeypatch.setattr(checks, "check", lambda told: [checks.Check("the moon is cheese", False, "it is not")])
    assert cli.main(["demo", "--plain"]) == 1
    out = capsys.readouterr().out
    assert "FALSE" in out
    assert "0 of 1 checks are true." in out
