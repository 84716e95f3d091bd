"""What the panes say of real guests at known places: each line is found where the machine itself has it."""

import pytest

from hv.replay.position import Position
from hv.spec.vmcs import VmcsField
from hv.step.model import FORWARD
from hv.step.panes import BY_NAME, PANES
from hv.step.panes.timeline import rows
from hv.step.reel import END
from hv.step.text import STYLES, width_of
from tests.step.stories import marked, model_of, source_model, text


def shown(model, pane, width=100, height=40):
    return BY_NAME[pane].lines(model, width, height)


def at(guest, place, by="event"):
    model = model_of(guest)
    model.go(Position.parse(place))
    return model


def test_code_marks_the_next_instruction_beside_its_source_line():
    lines = text(shown(at("timer", "E5"), "code")).splitlines()
    here = next(line for line in lines if line.startswith("=>"))
    assert here.split()[:4] == ["=>", "0001004c", "hlt", "33"]
    assert "sti" in lines[lines.index(here) - 1]
    assert any(line.startswith("start.done:  timer.asm") for line in lines)


def test_code_of_an_included_file_names_it():
    assert "send.byte:  lib/serial64.inc" in text(shown(at("timer", "E20"), "code"))


def test_registers_show_what_the_last_step_changed_and_what_it_was():
    model = at("timer", "E5")
    model.move(FORWARD, "instruction")
    lines = shown(model, "registers")
    assert "since E5:" in text(lines)
    assert " *rsp    0x90000 -> 0x8ffd8" in text(lines)
    assert " *rip    start.wait+0xb -> on_timer" in text(lines)
    assert "*rsp " in marked(lines, "new")
    assert not [piece for piece in marked(lines, "new") if piece.startswith("*rbx")]


def test_registers_at_the_beginning_have_nothing_to_compare_with():
    assert marked(shown(model_of("timer"), "registers"), "new") == []


def test_the_exit_shows_its_stages_with_the_fields_that_each_changed():
    lines = text(shown(at("timer", "E5"), "exit"))
    saved, handler = lines.index("2 saved"), lines.index("3 handler")
    assert "*EXIT_REASON                   0x38 -> 0xc  HLT" in lines[saved:handler]
    assert "handle_hlt  hv/hypervisor/exits/idle.py" in lines[handler:]
    assert 'SDM "HLT"' in lines[handler:]
    assert "+2 Injected  vector 0x30" in lines
    assert "*GUEST_RIP                     0x1004c -> 0x10072" in lines[lines.index("6 entry"):]


def test_the_fields_of_the_exit_are_those_of_the_machine():
    """What is called new after `entry` is what the VMCS has before the first instruction that runs then."""
    model = at("timer", "E5")
    entry = next(stage for stage in model.microscope.stages if stage.name == "entry")
    vmcs = model.reel.moment(Position(5, 1)).vmcs
    assert entry.changes
    for change in entry.changes:
        if isinstance(change.what, VmcsField):
            assert vmcs[change.what] == change.new != change.old


@pytest.mark.parametrize(("place", "cause"), [
    ("E5", "HLT EXITING (bit 7 of PRIMARY_PROC_CONTROLS) is 1"),
    ("E20", "UNCONDITIONAL IO EXITING (bit 24 of PRIMARY_PROC_CONTROLS) is 1"),
    ("E1", "VIRTUALIZE APIC ACCESSES (bit 0 of SECONDARY_PROC_CONTROLS) is 1")])
def test_the_exit_says_which_control_makes_it_one(place, cause):
    assert cause in text(shown(at("timer", place), "exit"))


def test_an_exit_that_the_parent_answers_shows_what_others_do():
    microscope = at("timer", "E20").microscope
    assert [stage.name for stage in microscope.stages] == ["exit", "saved", "handler", "verdict", "others", "entry"]
    assert "AskParent" in text(shown(at("timer", "E20"), "exit", height=60))


def test_an_exit_that_injects_a_fault_says_which():
    model = source_model(".bits 64\n.org 0x10000\nstart:\n mov ecx, 0x7fff0000\n rdmsr\n hlt\n")
    model.go_to("event == Fault")
    lines = text(shown(model, "exit", height=60))
    assert "Inject #" in lines
    assert "Fault  vector" in lines


def test_the_stage_where_one_is_stays_in_sight_on_a_small_screen():
    model = at("timer", "E5")
    for _ in range(5):
        model.move(FORWARD, "stage")
        lines = shown(model, "exit", 60, 9)
        assert len(lines) <= 9
        assert [piece for piece in marked(lines, "here") if model.microscope.stages[model.stage].name in piece]


def test_memory_has_three_addresses_and_marks_what_was_written():
    model = at("timer", "E5")
    model.look_at("0x8ffd8")
    model.move(FORWARD, "instruction")
    lines = shown(model, "memory")
    assert "0x8ffd8  gva 8ffd8  ->  gpa 8ffd8  ->  spa" in text(lines)
    assert "4c" not in marked(lines, "new")[:0]
    row = next(line for line in text(lines).splitlines() if line.startswith("0008ffd0"))
    assert row.split()[1] == "0008ffd0"
    assert row.split()[2].endswith("8ffd0")
    assert "97" in marked(lines, "new")             # the low byte of RFLAGS in the frame, or what it was


def test_memory_that_is_not_mapped_says_why():
    model = at("timer", "E5")
    model.look_at("0x7fffffff0000")
    assert "no page is mapped there by the guest" in text(shown(model, "memory"))


def test_the_machine_has_a_box_for_each_partition_and_marks_who_runs():
    model = at("guests/synic.toml", "E5")
    lines = shown(model, "machine")
    assert "┌ synic  partition 2, active ─" in text(lines)
    assert "┌ partner  partition 3, active ─" in text(lines)
    assert text(lines).count("runs now") == 1


def test_a_device_and_the_way_of_its_interrupt_are_on_the_map():
    model = model_of("dma")
    model.go(END)
    lines = text(shown(model, "machine"))
    model.go_to("begin")
    assert "devices 00:02.0" in text(shown(model, "machine"))
    model.go_to("event == InterruptRouted")
    lines = text(shown(model, "machine"))
    assert "00:02.0  ->  physical vector 30  ->  50 of dma.0" in lines


def test_the_timeline_stands_around_where_one_is():
    model = at("timer", "E5:3")
    found = rows(model, 100, 9)
    here = [row for row in found if row.position == model.here]
    assert len(found) == 9
    assert "instruction 3 of 16" in text([here[0].line])
    assert {row.position for row in found} >= {Position(5), Position(6)}


@pytest.mark.parametrize("place", ["E0", "E44", "end"])
def test_the_timeline_has_both_its_ends(place):
    model = model_of("timer")
    model.go_to(place)
    found = rows(model, 80, 12)
    assert len(found) == 12
    assert text(row.line for row in found).count("=>") == 1


@pytest.mark.parametrize("pane", [pane.name for pane in PANES])
@pytest.mark.parametrize(("guest", "place"), [
    ("timer", "begin"), ("timer", "E5:1"), ("timer", "end"), ("guests/synic.toml", "E60+3"),
    ("guests/synic.toml", "end"), ("crash", "end"), ("long_mode", "E1"), ("two_vps", "end")])
@pytest.mark.parametrize(("width", "height"), [(38, 7), (80, 20), (200, 60)])
def test_no_pane_is_larger_than_its_place(pane, guest, place, width, height):
    model = model_of(guest)
    model.go_to(place)
    lines = BY_NAME[pane].lines(model, width, height)
    assert 0 < len(lines) <= height
    assert max(width_of(line) for line in lines) <= width
    assert {word for line in lines for style, _ in line for word in style.split()} <= set(STYLES)


@pytest.mark.parametrize("pane", [pane.name for pane in PANES])
def test_a_pane_says_the_same_each_time(pane):
    """However one comes to a place: that is what makes a picture of it one that stays."""
    first, second = model_of("timer"), model_of("timer")
    for model in (first, second):
        model.go_to("E20" if model is first else "end")
        model.go(Position(7))
        model.go(Position(7, 4))
    assert BY_NAME[pane].lines(first, 100, 30) == BY_NAME[pane].lines(second, 100, 30)
