"""hv run: guests of every kind, good and bad, in one process."""

import json
from pathlib import Path

import pytest

from hv import cli
from hv.commands.screen import shown_time, ticks
from tests.trace.timeline_rules import broken_rules

ENDLESS = ".bits 64\nstart:\n jmp start\n"


def run(capsys, *arguments):
    code = cli.main(["run", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def endless(tmp_path):
    place = tmp_path / "endless.asm"
    place.write_text(ENDLESS)
    return place


def test_a_guest_prints_and_a_summary_follows_on_stderr(capsys):
    code, out, err = run(capsys, "hello")
    assert (code, out) == (0, "hello from a partition\n")
    assert err.startswith("hello: shutdown\n  exits         IO_INSTRUCTION ")
    assert "virtual time" in err


def test_the_name_of_a_file_cannot_command_the_terminal(capsys, tmp_path):
    place = tmp_path / "\x1b[2J\n.asm"
    place.write_text(".bits 64\nstart:\n hlt\n")
    code, out, err = run(capsys, place)
    assert (code, out) == (0, "")
    assert err.startswith("\\x1b[2J\\n: halt\n")


def test_a_guest_is_found_by_path_and_by_name(capsys):
    assert run(capsys, "hello")[:2] == run(capsys, "guests/hello.asm")[:2]


def test_a_description_of_ours_is_found_from_any_folder(capsys, tmp_path, monkeypatch):
    """README says `hv run guests/synic.toml`, and a student is in a folder of a lab."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "guests/synic.toml", "--until", "20us")
    assert (code, out) == (0, "")


def test_two_runs_give_the_same_json_byte_for_byte(capsys):
    first, second = (run(capsys, "two_vps", "--smp", 2, "--json") for _ in range(2))
    assert first == second
    code, out, err = first
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["ended"] == "shutdown"
    assert "together 20000" in result["serial"]
    assert [vp["index"] for vp in result["vps"]] == [0, 1]
    assert result["exits"]["IO_INSTRUCTION"] > 0
    assert list(result) == ["name", "kind", "ended", "why", "serial", "crash", "resets", "vps", "exits", "retired_work",
                            "virtual_time_100ns", "tsc"]


def test_a_guest_that_reports_a_crash_is_one_that_crashed(capsys):
    """The five parameters and the text are a line of the summary, and in the JSON."""
    code, _, err = run(capsys, "crash")
    assert code == 3
    assert "crash: shutdown\n  crash report  0xdead 0x10059 0x90000 0x204000 0x29: panic: an instruction that does " \
           "not exist\n  resets        1\n" in err
    result = json.loads(run(capsys, "crash", "--json")[1])
    assert result["crash"] == {"parameters": ["0xdead", "0x10059", "0x90000", "0x204000", "0x29"],
                               "message": "panic: an instruction that does not exist"}
    assert result["resets"] == 1
    assert json.loads(run(capsys, "hello", "--json")[1])["crash"] is None


def test_the_json_has_every_register_as_hexadecimal(capsys):
    registers = json.loads(run(capsys, "hello", "--json")[1])["vps"][0]["registers"]
    wanted = {"rax", "r15", "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer", "cs", "tr", "gdtr", "idtr"}
    assert wanted <= set(registers)
    assert set(registers["ss"]) == {"selector", "base", "limit", "rights"}
    assert registers["rip"].startswith("0x7c")


def test_a_triple_fault_is_exit_code_3_and_says_where(capsys):
    code, _, err = run(capsys, "crasher")
    assert code == 3
    assert err.startswith("crasher: triple-fault (vp 0 triple-faulted at rip 0x10007)")


def test_two_vps_on_one_vp_says_what_it_lacks(capsys):
    code, out, _ = run(capsys, "two_vps")
    assert code == 0
    assert out.startswith("VP 1 does not finish: this partition needs two VPs (hv run two_vps --smp 2)\n")


def test_an_endless_guest_uses_up_its_budget_and_is_told_how_to_raise_it(capsys, endless):
    code, _, err = run(capsys, endless, "--budget", "3ms")
    assert code == 3
    assert "endless: budget" in err
    assert err.endswith("hv: endless still ran when its budget, 3.000 ms of virtual time, ended; "
                        "raise it with --budget 10s, or stop on purpose with --until\n")


@pytest.mark.parametrize("options", [[], ["--parallel"]], ids=["alone", "parallel"])
def test_a_budget_begins_with_the_guest_however_long_its_machine_took_to_make(capsys, endless, options):
    """A VM has work for its time, and a larger one is more work for root."""
    small, large = (json.loads(run(capsys, endless, "--mem", mib, "--budget", "300us", "--json", *options)[1])
                    for mib in (2, 256))
    assert large["tsc"] > small["tsc"]
    assert abs(large["retired_work"] - small["retired_work"]) < 2000
    assert small["retired_work"] > 590_000


def test_stopping_on_purpose_is_no_failure(capsys, endless):
    code, out, err = run(capsys, endless, "--until", "3ms", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["ended"] == "budget"
    assert abs(result["tsc"] - 6_000_000) < 100
    assert result["retired_work"] > 5_000_000


def test_a_timeline_is_written_for_perfetto(capsys, tmp_path):
    code, _, _ = run(capsys, "hello", "--trace", tmp_path / "out.json")
    events = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    assert code == 0
    assert any(event["ph"] == "X" and event["name"] == "IO_INSTRUCTION" for event in events)


PAIR = ('[[vm]]\nname = "b"\nimage = "receiver.asm"\n[[vm]]\nname = "a"\nimage = "postman.asm"\ndevice = true\n'
        '[[connection]]\nfrom = "a"\nto = "b"\n')


@pytest.mark.parametrize("arguments", [["hello"], ["timer"], ["two_vps", "--smp", "2"], ["dma", "--device"],
                                       ["crasher"], ["pair.toml"]], ids=lambda arguments: arguments[0])
def test_the_timeline_of_a_guest_keeps_every_rule_of_its_format(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair.toml").write_text(PAIR)
    run(capsys, *arguments, "--trace", "out.json")
    text = (tmp_path / "out.json").read_text()
    assert broken_rules(text) == []
    names = {entry["args"]["name"] for entry in json.loads(text)["traceEvents"] if entry["name"] == "process_name"}
    assert names <= {"hypervisor", "root", arguments[0], "a", "b"}


def contents(folder):
    return {place.name: place.read_bytes() if place.is_file() else None for place in folder.iterdir()}


@pytest.mark.parametrize("name", ["machine.toml", "guest.asm", "part.inc", "link", "hard", "notes.txt", "other.json"])
def test_a_timeline_replaces_nothing_but_a_timeline(name, capsys, tmp_path):
    (tmp_path / "part.inc").write_text("hlt\n")
    (tmp_path / "guest.asm").write_text('.bits 64\nstart:\n.include "part.inc"\n')
    (tmp_path / "machine.toml").write_text('[[vm]]\nname = "x"\nimage = "guest.asm"\n')
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other.json").write_text('{"mine": 1}')
    (tmp_path / "link").symlink_to("part.inc")
    (tmp_path / "hard").hardlink_to(tmp_path / "part.inc")
    before = contents(tmp_path)
    code, out, err = run(capsys, tmp_path / "machine.toml", "--trace", tmp_path / name)
    assert (code, out, contents(tmp_path)) == (2, "", before)
    assert f"{name} is there already, and is no timeline; expected a new file; name another, such as out.json\n" in err


def test_an_older_timeline_and_an_empty_file_are_replaced(capsys, tmp_path):
    place = tmp_path / "out.json"
    place.write_text("")
    for _ in range(2):
        assert run(capsys, "hello", "--trace", place)[0] == 0
        assert json.loads(place.read_text())["traceEvents"]


@pytest.mark.parametrize(("name", "part"), [("", "Is a directory"), ("no/out.json", "No such file or directory"),
                                            ("a" * 300, "File name too long"), ("a\0b", "null")])
def test_a_place_where_no_timeline_can_be_is_refused_before_the_run(name, part, capsys, tmp_path):
    code, out, err = run(capsys, "hello", "--trace", f"{tmp_path}/{name}")
    assert (code, out, contents(tmp_path)) == (2, "", {})
    assert part in err
    assert err.endswith("name a file in an existing folder\n")


def test_a_program_that_cannot_be_loaded_leaves_no_timeline(capsys, tmp_path):
    (tmp_path / "bad.asm").write_text("frobnicate\n")
    assert run(capsys, tmp_path / "bad.asm", "--trace", tmp_path / "out.json")[0] == 2
    assert not (tmp_path / "out.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full, of Linux")
def test_a_full_disk_is_said_in_a_line(capsys):
    code, _, err = run(capsys, "hello", "--trace", "/dev/full")
    assert code == 2
    assert "hv: the timeline /dev/full cannot be written: No space left on device" in err


def test_a_program_above_the_largest_memory_is_told_to_move(capsys, tmp_path):
    (tmp_path / "high.asm").write_text(".org 0xFFFFF000\nhlt\n")
    code, _, err = run(capsys, tmp_path / "high.asm")
    assert code == 2
    assert err.endswith("; a VM has 2048 MiB at most: place the program lower\n")


def test_a_name_too_long_for_a_file_is_said_in_a_line(capsys):
    code, _, err = run(capsys, "a" * 5000)
    assert code == 2
    assert "cannot be read: File name too long" in err


def test_the_device_is_there_when_asked_for(capsys):
    assert "no device" in run(capsys, "dma")[1]
    assert "the bytes are in place" in run(capsys, "dma", "--device")[1]
    assert "the frame came back" in run(capsys, "ring", "--pc", "--device", "dma", "--device", "ring")[1]


def test_a_described_machine_runs_its_vms_together(capsys, tmp_path):
    place = tmp_path / "pair.toml"
    place.write_text('[[vm]]\nname = "b"\nimage = "receiver.asm"\n[[vm]]\nname = "a"\nimage = "hypercaller.asm"\n'
                     '[[connection]]\nfrom = "a"\nto = "b"\n')
    code, out, _ = run(capsys, place)
    assert code == 0
    assert "b: got message 5" in out
    assert "a: HvCallCreatePartition: status 0x0000000000000006" in out
    code, out, _ = run(capsys, place, "--json")
    assert [vm["ended"] for vm in json.loads(out)["vms"]] == ["shutdown", "shutdown"]


def test_options_of_one_guest_do_not_go_with_a_description(capsys, tmp_path):
    place = tmp_path / "one.toml"
    place.write_text('[[vm]]\nname = "x"\nimage = "hello"\n')
    code, _, err = run(capsys, place, "--smp", 2)
    assert (code, err) == (2, "hv: --smp says what one.toml says itself; write it into the description\n")


@pytest.mark.parametrize(("name", "content", "part"), [
    ("empty.asm", b"", "is empty"),
    ("bad.asm", b"start:\n frobnicate eax\n", "bad.asm:2"),
    ("cut.elf", b"\x7fELF\x02\x01\x01", "cut.elf"),
    ("what.xyz", b"abc", "the kind of `.xyz` is not known"),
    ("folder.asm/x", b"x", "is a directory"),
])
def test_a_file_that_cannot_be_loaded_is_one_line(name, content, part, capsys, tmp_path):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    code, out, err = run(capsys, place if place.suffix else place.parent)
    assert (code, out) == (2, "")
    assert part in err
    assert err.count("\n") == 1


def test_a_program_larger_than_its_memory_is_told_what_it_needs(capsys, tmp_path):
    place = tmp_path / "far.asm"
    place.write_text(".bits 64\n.org 0x10000\nstart:\n hlt\n.org 0x1800000\n .quad 1\n")
    code, _, err = run(capsys, place)
    assert code == 2
    assert "give it 25 MiB (--mem, or memory_mib)" in err
    assert run(capsys, place, "--mem", 25)[0] == 0


@pytest.mark.parametrize(("name", "source"), [
    ("garbage", ".bits 64\nstart:\n nop\n .byte 0xFF, 0xFF, 0xFF\n"),
    ("jumps-outside-ram", ".bits 64\nstart:\n mov eax, 0x3F00000\n jmp rax\n"),
    ("endless-faults", ".bits 64\nstart:\n mov rsp, 0\n ud2\n"),
])
def test_a_guest_that_goes_astray_ends_by_a_crash_and_nothing_else(name, source, capsys, tmp_path):
    place = tmp_path / f"{name}.asm"
    place.write_text(source)
    code, _, err = run(capsys, place, "--budget", "10ms")
    assert code == 3
    assert f"{name}: triple-fault" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("text", "value"), [("10ms", 20_000_000), ("2s", 4_000_000_000), ("1.5us", 3000), ("1_0", 10)])
def test_time_is_read_in_units_or_ticks(text, value):
    assert ticks(text) == value


def test_time_is_shown_in_the_unit_that_fits():
    assert [shown_time(count) for count in (3000, 5_000_000, 4_000_000_000)] == ["1.500 us", "2.500 ms", "2.000 s"]
    assert [shown_time(count) for count in (1_999_999, 2_000_000)] == ["1000.000 us", "1.000 ms"]
    assert [shown_time(count) for count in (1_999_999_999, 2_000_000_000)] == ["1000.000 ms", "1.000 s"]


def test_a_mistake_in_an_exit_handler_is_reported_with_the_events_before_it(capsys, monkeypatch, tmp_path):
    def broken(vp, index):
        raise RuntimeError("handler broke")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hv.hypervisor.msrs.registry.read_msr", broken)
    code, _, err = run(capsys, "msr_reader")
    assert code == 4
    assert err.count("\n") == 1
    assert "RuntimeError: handler broke" in err
    report = json.loads((tmp_path / "hv-report-1.json").read_text())
    assert report["events"][-1]["event"]["reason"] == "RDMSR"
    assert report["command"] == ["hv", "run", "msr_reader"]


# --- the root partition ---------------------------------------------------------------------------------------------

def test_a_guest_runs_as_the_root_partition(capsys):
    code, out, err = run(capsys, "--root", "hello")
    assert (code, out) == (0, "hello from a partition\n")
    assert err.startswith("hello: shutdown\n  exits         IO_INSTRUCTION ")


def test_root_of_several_processors_says_the_same_each_time(capsys):
    first, second = (run(capsys, "--root", "two_vps", "--smp", 2, "--json") for _ in range(2))
    assert first == second
    result = json.loads(first[1])
    assert (result["ended"], [vp["index"] for vp in result["vps"]]) == ("shutdown", [0, 1])
    assert "together 20000" in result["serial"]


def test_the_timeline_of_root_keeps_the_rules(capsys, tmp_path):
    place = tmp_path / "out.json"
    assert run(capsys, "--root", "timer", "--trace", place)[0] == 0
    assert broken_rules(place.read_text()) == []


def test_root_that_crashes_or_runs_on_fails(capsys, endless):
    code, _, err = run(capsys, "--root", "crasher")
    assert (code, "crasher: triple-fault (vp 0 triple-faulted" in err) == (3, True)
    code, _, err = run(capsys, "--root", endless, "--budget", "1ms")
    assert (code, "still ran when its budget" in err) == (3, True)
    assert run(capsys, "--root", endless, "--until", "1ms")[0] == 0


@pytest.mark.parametrize(("arguments", "part"), [
    (["--mem", 3], "--mem is 3; expected 4..3840"),
    (["--mem", 4000], "--mem is 4000; expected 4..3840"),
    (["--smp", 0], "--smp is 0; expected 1..64"),
    (["--device"], "root has all of them"),
])
def test_what_root_cannot_have_is_one_line(arguments, part, capsys):
    code, out, err = run(capsys, "--root", "hello", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert part in err


def test_a_description_of_vms_is_no_program_for_root(capsys, tmp_path):
    place = tmp_path / "machine.toml"
    place.write_text('[[vm]]\nname = "a"\nimage = "hello"\n')
    code, _, err = run(capsys, "--root", place)
    assert (code, "leave --root out" in err) == (2, True)


def test_a_program_larger_than_the_machine_is_told_so(capsys, tmp_path):
    place = tmp_path / "far.asm"
    place.write_text(".bits 64\n.org 0x10000\nstart:\n hlt\n.org 0xF00000\n .quad 1\n")
    code, _, err = run(capsys, "--root", place, "--mem", 16)
    assert (code, err.count("\n")) == (2, 1)
    assert "the program reaches up to 0xf00008" in err


TWO = """
[[vm]]
name = "a"
image = "hello.asm"
[[vm]]
name = "b"
image = "timer.asm"
"""


def test_a_parallel_run_prints_the_same_and_says_what_it_is(capsys, tmp_path):
    place = tmp_path / "machine.toml"
    place.write_text(TWO)
    one, many = run(capsys, place), run(capsys, place, "--parallel")
    assert (many[0], sorted(many[1].splitlines())) == (one[0], sorted(one[1].splitlines()))
    assert many[2].startswith("parallel: each VM has a processor and a host thread of its own")
    assert "parallel" not in one[2]


def test_the_json_of_a_parallel_run_says_so(capsys):
    code, out, err = run(capsys, "hello", "--parallel", "--json")
    assert (code, err, json.loads(out)["parallel"]) == (0, "", True)


def test_a_parallel_run_has_a_budget_and_may_be_stopped(capsys, endless):
    code, _, err = run(capsys, endless, "--parallel", "--budget", "1ms")
    assert (code, "still ran when its budget" in err) == (3, True)
    assert run(capsys, endless, "--parallel", "--until", "1ms")[0] == 0


def test_the_timeline_of_a_parallel_run_is_one_too(capsys, tmp_path):
    place, out = tmp_path / "machine.toml", tmp_path / "out.json"
    place.write_text(TWO)
    assert run(capsys, place, "--parallel", "--trace", out)[0] == 0
    assert broken_rules(out.read_text()) == []


@pytest.mark.parametrize("how", ["option", "description"])
def test_msrs_that_are_not_there_are_ignored_on_request(how, capsys, tmp_path):
    """Else the first of them is #GP, and without an IDT the end."""
    place = tmp_path / "unknown.asm"
    place.write_text(".bits 64\nstart:\n mov ecx, 0x1234\n mov eax, 7\n wrmsr\n rdmsr\n hlt\n")
    assert run(capsys, place, "--json")[0] == 3
    if how == "option":
        code, out, _ = run(capsys, place, "--ignore-msrs", "--json")
    else:
        (tmp_path / "m.toml").write_text('[[vm]]\nname = "a"\nimage = "unknown.asm"\nignore_msrs = true\n')
        code, out, _ = run(capsys, tmp_path / "m.toml", "--json")
    assert code == 0
    assert '"rax": "0x0"' in out


# --- with the board of a PC -----------------------------------------------------------------------------------------

OFF = " mov dx, 0x604\n mov ax, 0x2000\n out dx, ax\n hlt\n"
ECHO = """.bits 64
start:
 mov ecx, 2000
.boot:
 pause
 loop .boot
 mov dx, 0x3F8
 mov al, '>'
 out dx, al
.more:
 mov dx, 0x3FD
 in al, dx
 test al, 1
 jz .more
 mov dx, 0x3F8
 in al, dx
 out dx, al
 cmp al, '!'
 jne .more
""" + OFF
RESET = ".bits 64\nstart:\n mov dx, 0x3F8\n mov al, 'x'\n out dx, al\n mov dx, 0xCF9\n mov al, 6\n out dx, al\n hlt\n"


def pc(capsys, tmp_path, source, *arguments):
    place = tmp_path / "pc.asm"
    place.write_text(source)
    return run(capsys, place, "--pc", *arguments)


@pytest.mark.parametrize(("value", "code"), [(0, 1), (0x10, 33), (0x81, 3)])
def test_a_guest_that_leaves_by_the_debug_exit_says_the_exit_code(capsys, tmp_path, value, code):
    """isa-debug-exit: the value times two plus one."""
    source = f".bits 64\nstart:\n mov al, {value}\n out 0xF4, al\n hlt\n"
    found, out, err = pc(capsys, tmp_path, source)
    assert (found, err.splitlines()[0]) == (code, f"pc: debug-exit with {value:#x}")
    found, out, _ = pc(capsys, tmp_path, source, "--json")
    assert (found, json.loads(out)["ended"], json.loads(out)["debug_exit"]) == (code, "debug-exit", value)


@pytest.mark.parametrize("after", [[], ["--after", ">"]], ids=["at-once", "when-asked"])
def test_text_is_typed_at_the_serial_port_and_a_recording_has_it(capsys, tmp_path, after):
    (tmp_path / "typed").write_bytes(b"hello, 16550!")
    options = ["--input", tmp_path / "typed", *after]
    code, out, err = pc(capsys, tmp_path, ECHO, *options)
    assert (code, out) == (0, ">hello, 16550!\n")
    assert "pc: shutdown" in err
    kept = tmp_path / "kept"
    assert pc(capsys, tmp_path, ECHO, *options, "--record", kept)[:2] == (code, out)
    assert cli.main(["replay", str(kept)]) == 0
    assert capsys.readouterr().out == out


def test_a_reset_starts_a_pc_again_or_ends_the_run(capsys, tmp_path):
    code, out, err = pc(capsys, tmp_path, RESET, "--no-reboot")
    assert (code, out.strip(), err.splitlines()[0]) == (0, "x", "pc: reset")
    code, out, err = pc(capsys, tmp_path, RESET, "--budget", "1ms")
    assert (code, out[:4]) == (3, "xxxx")


def test_a_triple_fault_reboots_when_that_is_wanted(capsys, tmp_path):
    source = ".bits 64\nstart:\n mov al, [0x9000]\n inc byte ptr [0x9000]\n cmp al, 2\n je end\n lidt [0x9100]\n" \
        " int3\nend:\n" + OFF
    assert pc(capsys, tmp_path, source)[0] == 3
    code, _, err = pc(capsys, tmp_path, source, "--reboot")
    assert (code, "resets        2" in err) == (0, True)


@pytest.mark.parametrize(("options", "said"), [
    (["--after", "x"], "nothing says what"), (["--input", "/nowhere/at/all"], "cannot be read"),
    (["--input", "/dev/null", "--root"], "--input with --root"),
    (["--input", "/dev/null", "--debug"], "--debug with --input")])
def test_what_cannot_be_typed_is_said_before_the_run(capsys, options, said):
    code, out, err = run(capsys, "hello", *options)
    assert (code, out) == (2, "")
    assert said in err
