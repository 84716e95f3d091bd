"""Guests in C, where a compiler is installed: what runs, what is said about mistakes, and what is never read."""

import re
from pathlib import Path

import pytest

from hv import cli
from hv.image import c_source
from hv.image.errors import ImageError
from hv.image.load import load
from hv.lab.exercise import find, read_all
from hv.lab.grading import Submission, grade
from hv.lab.setting import program
from hv.platform import Machine
from tests.lab.exercises import LABS

GUIDE = Path(__file__).parents[2] / "docs/guests.md"
compiled = pytest.mark.skipif(not c_source.is_available(), reason="the extra `cguests` is not installed")
SIGNATURE = """#include "hv.h"
u32 signature[3];
int main(void)
{
    u32 answer[4];
    cpuid(0x40000000, 0, answer);
    for (int n = 0; n < 3; n++)
        signature[n] = answer[n + 1];
    halt();
}
"""
TIMER = """#include "hv.h"
static volatile u32 ticks;
__attribute__((interrupt)) static void on_timer(struct frame *frame) { ticks++; apic_write(APIC_EOI, 0); }
int main(void)
{
    set_vector(0x40, on_timer);
    apic_write(APIC_SVR, 0x1FF);
    apic_write(APIC_LVT_TIMER, 0x20040);
    apic_write(APIC_INITIAL, 1000);
    while (ticks < 3)
        wait_for_interrupt();
    print_hex(ticks);
    return 0;
}
"""
CALL = """#include "hv.h"
int main(void)
{
    hypercall_init();
    print_hex(hypercall(0x5C, 0x300000, 0));
    print(" ");
    print_hex(read_msr(HV_VP_INDEX));
    return 0;
}
"""


def a_file(folder, text, name="a.c"):
    place = folder / name
    place.write_text(text, encoding="utf-8")
    return place


def serial_of(place):
    """How it ended, and what it printed."""
    machine = Machine()
    try:
        vm = machine.create_vm("c", load(place))
        machine.run(20_000_000)
        return vm.ended, vm.serial
    finally:
        machine.close()


@compiled
@pytest.mark.parametrize(("text", "serial"), [(TIMER, "0x3"), (CALL, "0x12 0x0")], ids=["interrupts", "hypercalls"])
def test_a_guest_in_c_does_what_one_in_assembly_does(tmp_path, text, serial):
    assert serial_of(a_file(tmp_path, text)) == ("shutdown", serial)


@compiled
def test_the_program_of_the_guide_prints_what_the_guide_says(tmp_path):
    section = GUIDE.read_text(encoding="utf-8").partition("\n## A guest in C\n")[2]
    text, said = re.search(r"```c\n(.*?)```.*?prints `(.*?)`", section, re.S).groups()
    assert serial_of(a_file(tmp_path, text)) == ("shutdown", said + "\n")


@compiled
def test_it_may_include_what_lies_beside_it(tmp_path):
    a_file(tmp_path, "#define LETTER 'x'\n", "mine.h")
    place = a_file(tmp_path, '#include "hv.h"\n#include "mine.h"\nint main(void) { out8(COM1, LETTER); return 0; }\n')
    assert serial_of(place) == ("shutdown", "x")


@compiled
def test_the_same_source_gives_the_same_bytes_wherever_it_lies(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    one, other = (load(a_file(folder, SIGNATURE)) for folder in (tmp_path, tmp_path / "elsewhere"))
    assert one == other


@compiled
@pytest.mark.parametrize(("text", "says"), [
    ("int main(void) { x = 1; return 0; }", "a.c:1:18: `x` is not declared"),
    ("int main(void)\n{\n    return 0\n}\n", "a.c:3:13: `;` is missing here"),
    ("int main(void) { return 0; ", "`}` is missing"),
    ("#include <stdio.h>\nint main(void) { return 0; }", "a.c:1:10: there is no file `stdio.h` to include"),
    ('int main(void) { printf("x"); }', "a.c:1:18: the function `printf` is not declared"),
    ("int Main(void) { return 0; }", "a.c: there is no function `main`"),
    ("int f(void);\nint main(void) { return f(); }", "a.c: `f` is used, and defined nowhere"),
    ("u32 x;\nint main(void) { return 0; }", "a.c:1:1: `u32` is no type"),
    ('int main(void) { __asm__("bogus %eax"); return 0; }', "a.c:1:26: invalid instruction mnemonic `bogus`"),
    ("char big[0x2000000];\nint main(void) { return big[4]; }", "variables take more than 14 MiB"),
    ("/* nothing */", "there is no function `main`")], ids=lambda value: None)
def test_a_mistake_is_told_with_its_place(tmp_path, text, says):
    with pytest.raises(ImageError) as caught:
        load(a_file(tmp_path, text))
    assert says in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@compiled
@pytest.mark.parametrize("text", [
    '#include "{0}"\n', '#define W "{0}"\n#include W\n', '#include "../secret.h"\n',
    "const char all[] = {{\n#embed \"{0}\"\n}};\n"], ids=["include", "by-macro", "above", "embed"])
def test_nothing_outside_of_its_folder_is_read(tmp_path, text):
    secret, own = a_file(tmp_path, "int hidden;\n", "secret.h"), tmp_path / "own"
    own.mkdir()
    with pytest.raises(ImageError, match="lies outside of its folder"):
        load(a_file(own, text.format(secret) + "int main(void) { return 0; }\n"))


def test_incbin_is_refused_in_c_and_in_assembly(tmp_path):
    in_c = 'int x;\n__asm__(".incbin \\"/etc/passwd\\"");'
    for name, text in (("a.c", in_c), ("a.asm", '\n.incbin "/etc/passwd"\n')):
        with pytest.raises(ImageError, match=re.escape(f"{name}:2: ")):
            load(a_file(tmp_path, text, name))


@compiled
def test_a_compiler_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(c_source, "TIME_LIMIT", 0.001)
    with pytest.raises(ImageError, match="the compiler took more than"):
        load(a_file(tmp_path, SIGNATURE))


def test_without_a_compiler_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(c_source, "is_available", lambda: False)
    assert cli.main(["run", str(a_file(tmp_path, SIGNATURE))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'hvlab[cguests]'" in error


@compiled
def test_a_lab_may_be_answered_in_c(tmp_path, capsys):
    a_file(tmp_path, SIGNATURE, "first_exit.c")
    for lab in ("1", "first_exit.c"):
        assert cli.main(["lab", "check", lab, "--dir", str(tmp_path), "--plain"]) == 0
    assert "10 of 10 points" in capsys.readouterr().out


def test_a_starter_never_replaces_a_guest_in_c(tmp_path, capsys):
    mine = a_file(tmp_path, SIGNATURE, "first_exit.c")
    for action in ("start", "reset"):
        assert cli.main(["lab", action, "1", "--dir", str(tmp_path), "--plain"]) == 0
        assert mine.read_text(encoding="utf-8") == SIGNATURE
        assert (tmp_path / "first_exit.asm").exists()


def test_c_is_not_graded(tmp_path):
    """A compiler reads whatever it is told to: decision 0016 confines Python, and nothing confines a compiler yet."""
    place, exercise = a_file(tmp_path, SIGNATURE, "first_exit.c"), find(read_all(LABS), "1")
    assert grade(exercise, Submission("s", place)).status == "not_gradable"
    with pytest.raises(ImageError, match="what is graded is assembly"):
        program(place, own_includes=False)
