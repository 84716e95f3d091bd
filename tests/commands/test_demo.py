"""hv demo: every check is true, and each becomes false when what it claims did not happen."""

import json
from dataclasses import replace

import pytest

from hv import cli
from hv.commands import checks, demo, story
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls import HypercallCode
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


# --- each claim, and the ways in which it can be untrue -----------------------------------------------------------

class Saying:
    """A VM that printed something else, or ended otherwise."""

    def __init__(self, vm, **changed):
        self.__dict__.update(vm=vm, **changed)

    def __getattr__(self, name):
        return getattr(self.vm, name)


def plus(told, partition, event):
    """The story in which *event* happened, too."""
    return replace(told, records=[*told.records, replace(told.records[-1], partition=partition, event=event)])


def minus(told, kind, number=0, **fields):
    """The story without the event *number* of those of *kind* with these *fields*."""
    fitting = [record for record in told.records if isinstance(record.event, kind)
               and all(getattr(record.event, name) == value for name, value in fields.items())]
    return replace(told, records=[record for record in told.records if record is not fitting[number]])


def without(told, kind, **fields):
    """The story without all of them."""
    return replace(told, records=[record for record in told.records if not isinstance(record.event, kind)
                                  or any(getattr(record.event, name) != value for name, value in fields.items())])


def a_call(code=HypercallCode.POST_MESSAGE, status=0):
    return events.Hypercall(code, 0, 0, 0, status, 0)


def letters(told, order):
    lines = "".join(f"got message {n} > from A\n" for n in order)
    return replace(told, b=Saying(told.b, serial=lines))


def device(told):
    return checks.device_of(told)


UNTRUE = {
    "root makes its children by hypercalls": [
        lambda told: plus(told, 1, events.PartitionCreated(9, 1)),
        lambda told: minus(told, events.Hypercall, code=HypercallCode.CREATE_VP, status=0),
        lambda told: minus(told, events.Hypercall, code=HypercallCode.INITIALIZE_PARTITION, status=0),
        lambda told: plus(minus(told, events.Hypercall, code=HypercallCode.CREATE_VP, status=0), 1,
                          a_call(HypercallCode.CREATE_VP, HvStatus.ACCESS_DENIED)),
        lambda told: without(told, events.Hypercall, code=HypercallCode.SET_VP_REGISTERS),
        lambda told: without(told, events.Hypercall, code=HypercallCode.MAP_GPA_PAGES),
    ],
    "A and B run interleaved": [
        lambda told: without(told, events.VpSwitch, partition=told.a.partition_id),
        lambda told: without(told, events.VpSwitch, partition=told.b.partition_id),
    ],
    "CPUID exits, and the hypervisor answers with its name": [
        lambda told: plus(told, told.a.partition_id, events.Cpuid(0x40000000, 0, (0, 0x41414141, 0, 0))),
        lambda told: replace(told, a=Saying(told.a, serial="")),
    ],
    "RDMSR and WRMSR exit, and are answered": [
        lambda told: plus(told, told.a.partition_id, events.MsrRead(0x10, 0)),
        lambda told: minus(told, events.MsrWrite),
        lambda told: replace(told, records=[]),
    ],
    "VMCALL exits, and A's hypercalls succeed": [
        lambda told: plus(told, told.a.partition_id, a_call()),
        lambda told: plus(told, told.a.partition_id, a_call(HypercallCode.CREATE_VP, HvStatus.ACCESS_DENIED)),
        lambda told: plus(minus(told, events.Hypercall, code=HypercallCode.POST_MESSAGE), told.a.partition_id,
                          a_call(status=HvStatus.INSUFFICIENT_BUFFERS)),
    ],
    "every message of A reaches B, in order": [
        lambda told: minus(told, events.MessagePosted),
        lambda told: minus(told, events.MessageDelivered, sint=story.MESSAGE_SINT),
        lambda told: without(told, events.Injected, vector=story.MESSAGE_VECTOR),
        lambda told: letters(told, [1, 2, 4, 3, 5]),
        lambda told: letters(told, [1, 2, 3, 4]),
        lambda told: letters(told, [1, 2, 3, 4, 5, 6]),
    ],
    "the device's interrupt arrives in A": [
        lambda told: minus(told, events.InterruptRouted),
        lambda told: plus(minus(told, events.InterruptRouted), 0, events.InterruptRouted(
            0xFFFF, 0x50, told.a.partition_id, 0)),
        lambda told: minus(told, events.Injected, vector=story.DEVICE_VECTOR),
    ],
    "the device's interrupt does not arrive in B": [
        lambda told: plus(told, 0, events.InterruptRouted(device(told), 0x50, told.b.partition_id, 0)),
        lambda told: plus(told, 0, events.InterruptRouted(device(told), 0x50, told.attacker.partition_id, 0)),
        lambda told: plus(told, told.attacker.partition_id, events.Injected(story.DEVICE_VECTOR, 0)),
    ],
    "DMA of A's device lands in A's page": [
        lambda told: minus(told, events.Dma, write=True),
        lambda told: plus(minus(told, events.Dma, write=True), 0, events.Dma(device(told), 0x301000, 16, True, 0x5000)),
    ],
    "the attacker is refused at every turn": [
        lambda told: replace(told, attacker=Saying(told.attacker, serial=told.attacker.serial.replace(
            "refused", "reached", 1))),
        lambda told: replace(told, attacker=Saying(told.attacker, serial=told.attacker.serial.replace(
            "attacker has tried everything", ""))),
        lambda told: replace(told, attacker=Saying(told.attacker, serial="a: refused\n" * 29
                                                   + "attacker has tried everything\n")),
    ],
    "none of the attacker's hypercalls succeeds": [
        lambda told: plus(told, told.attacker.partition_id, a_call()),
    ],
    "the IOMMU refuses the attacker's DMA": [
        lambda told: plus(told, 0, events.Dma(told.attacker.worker.device.source_id, 0, 8, True,
                                              told.b.worker.pages[0] << 12)),
        lambda told: without(told, events.DmaFault),
    ],
    "B's memory is as it was before the attack": [lambda told: replace(told, after=replace(told.after, b="0"))],
    "A's memory is as it was before the attack": [lambda told: replace(told, after=replace(told.after, a="0"))],
    "root's memory is as it was before the attack": [
        lambda told: replace(told, after=replace(told.after, root={**told.after.root, 1 << 40: b""})),
        lambda told: replace(told, after=replace(told.after, root=dict(list(told.after.root.items())[1:]))),
    ],
    "A and B live on after the attack": [
        lambda told: replace(told, letters_before=story.LETTERS),
        lambda told: plus(told, told.b.partition_id, events.MessageDelivered(story.MESSAGE_SINT, 1, 0)),
        lambda told: replace(told, a=Saying(told.a, ended="triple-fault")),
        lambda told: replace(told, b=Saying(told.b, ended=None)),
        lambda told: replace(told, attack_over=len(told.records)),
    ],
}


def test_each_claim_is_told_in_its_untrue_forms():
    assert list(UNTRUE) == list(checks.CLAIMS)


@pytest.mark.parametrize(("name", "form"), [(name, n) for name, forms in UNTRUE.items() for n in range(len(forms))])
def test_a_claim_that_is_untrue_is_found_out(told, name, form):
    ok, evidence = checks.CLAIMS[name](UNTRUE[name][form](told))
    assert ok is False
    assert evidence


def test_it_is_a_s_page_that_must_hold_the_letter(told):
    page = told.a.worker.pages[story.BAG_GPA // 4096]
    before = told.machine.memory.read(page << 12, 1)
    told.machine.memory.write(page << 12, b"\xff")
    try:
        assert not checks.CLAIMS["DMA of A's device lands in A's page"](told)[0]
    finally:
        told.machine.memory.write(page << 12, before)


@pytest.mark.parametrize(("count", "ok"), [(9, False), (10, True)])
def test_the_attacker_must_have_tried_enough(told, count, ok):
    quiet = without(told, events.Hypercall)
    for _ in range(count):
        quiet = plus(quiet, told.attacker.partition_id, a_call(status=HvStatus.ACCESS_DENIED))
    assert checks.CLAIMS["none of the attacker's hypercalls succeeds"](quiet)[0] is ok


@pytest.mark.parametrize(("turns", "ok"), [(2 * story.LETTERS - 1, False), (2 * story.LETTERS, True)])
def test_a_and_b_must_have_changed_often_enough(told, turns, ok):
    quiet = without(told, events.VpSwitch)
    for n in range(turns + 1):
        quiet = plus(quiet, 0, events.VpSwitch((told.a, told.b)[n % 2].partition_id, 0))
        quiet = plus(quiet, 0, events.VpSwitch(1, 0))
    assert checks.CLAIMS["A and B run interleaved"](quiet)[0] is ok
