"""hv demo: every check is true, and each becomes false when what it claims did not happen."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from hv import cli
from hv.commands import checks, demo, story, telling
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
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
    stray = told.records[-1]._replace(partition=told.b.partition_id, event=events.Injected(story.DEVICE_VECTOR, 0))
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
    return replace(told, records=[*told.records, told.records[-1]._replace(partition=partition, event=event)])


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


# --- the tables ---------------------------------------------------------------------------------------------------

def test_the_way_of_a_letter_is_told_step_by_step_to_bs_handler(told):
    assert [row[1:3] for row in telling.letter(told)] == [
        ("device", "Dma"), ("device", "Dma"), ("IOMMU", "InterruptRemapped"), ("hypervisor", "InterruptRouted"),
        ("A", "Injected"), ("A", "MessagePosted"), ("hypervisor", "MessageDelivered"), ("B", "Injected")]
    meanings = [row[3] for row in telling.letter(told)]
    assert [words.split()[0] for words in meanings[:2]] == ["reads", "writes"]
    assert meanings[3] == "the owner is A, its vector is 0x50"
    assert meanings[5] == "16 bytes through connection 1"
    assert meanings[7] == 'vector 0x40: B reads "got message 1 > from A"'


@pytest.mark.parametrize(("partition", "event"), [
    ("B", events.Injected(story.DEVICE_VECTOR + 1, 0)), ("A", events.Injected(story.MESSAGE_VECTOR, 0)),
    ("B", events.MessageDelivered(story.MESSAGE_SINT + 1, 1, 0)), ("A", events.Dma(0xFFFF, 0, 8, True, 0)),
])
def test_what_is_not_on_the_letters_way_is_not_told(told, partition, event):
    record = told.records[-1]._replace(partition={"A": told.a, "B": told.b}[partition].partition_id, event=event)
    assert telling.step_of_letter(told, record) is None


def test_the_first_turns_are_told_with_port_io_in_one_line(told):
    rows = telling.turns(told)
    assert len(rows) == telling.TURNS
    assert {row[1] for row in rows} == {"A", "B"}
    times = [float(row[0]) for row in rows]
    assert times == sorted(times)
    for who in "AB":
        kinds = [row[2] for row in rows if row[1] == who]
        assert not any(one == after == "IO_INSTRUCTION" for one, after in pairwise(
            kind.split()[0] for kind in kinds))
    assert any(row[2].startswith("IO_INSTRUCTION x ") and "root's worker is asked" in row[3] for row in rows)
    so = {row[2]: row[3] for row in rows if row[1] == "A"}
    assert so["CPUID"] == "leaf 0x40000000 answered from the partition's own table"
    assert so["RDMSR"] == "HV_VP_INDEX is 0x0"
    assert so["VMCALL"] == "HvCallPostMessage"
    assert so["HLT"] == "sleeps until an interrupt"
    assert so["APIC_ACCESS"] == "the local APIC's page at 0xfee00000, emulated"
    assert ("B", "WRMSR", "HV_SINT2 = 0x40") in [row[1:] for row in rows]


def test_who_ran_is_a_letter_a_turn(told):
    def ran(*partitions):
        quiet = without(told, events.VpSwitch)
        return telling.order(replace(quiet, records=[*quiet.records, *(
            told.records[-1]._replace(partition=0, event=events.VpSwitch(partition, 0)) for partition in partitions)]))

    a, b = told.a.partition_id, told.b.partition_id
    assert ran(b, 1, a, told.attacker.partition_id, a) == "BAA"
    assert ran(*[a] * telling.ORDER) == "A" * telling.ORDER
    assert ran(*[a] * (telling.ORDER + 1)) == "A" * telling.ORDER + " ..."


def test_each_partition_is_told_with_the_calls_that_made_it(told):
    rows = {row[0]: row for row in telling.partitions(told)}
    assert list(rows) == ["", "1 root", "2 B", "3 A", "4 attacker"]
    assert [rows[name][2] for name in ("2 B", "3 A", "4 attacker")] == ["4 MiB"] * 3
    both = [int(rows[name][2].split()[0]) for name in ("", "1 root")]
    assert sum(both) == story.MACHINE_MIB << 10
    calls = {name: rows[name][3].split(", ") for name in ("2 B", "3 A", "4 attacker")}
    assert all(made[0] == "CREATE_PARTITION" and "CREATE_VP" in made for made in calls.values())
    assert [name for name, made in calls.items() if "ATTACH_DEVICE" in made] == ["3 A", "4 attacker"]
    assert [name for name, made in calls.items() if "CREATE_PORT" in made] == ["3 A"]
    assert "MAP_GPA_PAGES 2" in calls["3 A"]
    assert "MAP_GPA_PAGES" in calls["2 B"]


@pytest.mark.parametrize(("outcome", "shown"), [
    ("refused, status 0x0006", "refused, status 0x6"), ("fault 0x0d, at 0x0000000000001000", "fault 0xd, at 0x1000"),
    ("nothing there", "nothing there"), ("", ""), ("0x0000, 0x10", "0x0, 0x10"),
])
def test_numbers_of_the_attacker_lose_their_zeroes(outcome, shown):
    assert telling.shorter(outcome) == shown


def test_memory_before_and_after_is_told_and_what_changed(told):
    page = next(page for page in told.before.root if page not in told.hypercall_pages)
    changed = replace(told, after=replace(told.after, root={**told.after.root, page: b"other"}))
    assert telling.hashes(told)[2][2].startswith("0 changed")
    assert telling.hashes(changed)[2][2].startswith("1 changed")
    assert telling.hashes(told)[0] == ("A", told.before.a[:32], told.after.a[:32])


def test_an_msr_without_a_name_is_told_by_its_number():
    assert [telling.msr_name(number) for number in (0x40000000, 0x4FFF)] == ["HV_GUEST_OS_ID", "MSR 0x4fff"]
