"""A learner's exit handlers and hypercalls answer in a real machine; what is no answer stops the VP, and is told."""

import pytest

from hv.lab.errors import LabError
from hv.lab.exercise import read
from hv.lab.runner import FinishedRun, prepare
from hv.lab.setting import given
from tests.lab.exercises import LABS
from tests.lab.folders import HALTS, a_lab, verdict_on

GUEST = """
start:
    mov rax, 0xABCD00000007
    mov ecx, 3
    cpuid
    mov [0x200000], rax
    hlt
.org 0x200000
seen: .quad -1
"""
SEEN = '[[checks]]\nname = "it is seen"\nkind = "memory"\nsymbol = "seen"\nvalue = 42\n'
ASKED = '[[checks]]\nname = "it answers"\nkind = "piece"\n'
EXITS = 'program = "g.asm"\n[limits]\nticks = 2_000_000\n[piece]\nsteps = 500\nasks = 20\ncalls = 50\n' \
        '[piece.exits]\nCPUID = "handle"\n'
IMPORT = "from hypervisor import Advance, GuestFault, Halt, Inject, Retry\n"


def a_lab_of_handlers(tmp_path, checks=ASKED, guest=GUEST, piece=EXITS, **more):
    return a_lab(tmp_path, piece + checks, kind="python", file="a.py", g__asm=guest, **more)


def handled(tmp_path, body, checks=ASKED, guest=GUEST):
    """The verdict on a handler of CPUID with this *body*."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    return verdict_on(a_lab_of_handlers(tmp_path, checks, guest), f"{IMPORT}def handle(vp, exit):\n{lines}")


def test_what_a_handler_writes_is_what_the_guest_reads(tmp_path):
    verdict = handled(tmp_path, "vp.regs.eax = 42\nreturn Advance()", ASKED + SEEN + HALTS)
    assert verdict.passed, [finding.message for finding in verdict.findings]


def test_a_handler_reads_registers_exit_and_the_processors_answer(tmp_path):
    body = "assert (vp.index, vp.regs.rax, vp.regs.eax, vp.regs.ecx) == (0, 0xABCD00000007, 7, 3)\n" \
           "assert (exit.reason, exit.instruction_length, exit.guest_physical_address) == ('CPUID', 2, None)\n" \
           "assert vp.regs.rip == 0x1000f and vp.regs.cr3 == 0x71000 and vp.regs.r8d == 0\n" \
           "assert vp.cpuid(0)[1:] == [0x756e6547, 0x6c65746e, 0x49656e69] and len(vp.cpuid(4, 1)) == 4\n" \
           "return Advance()"
    verdict = handled(tmp_path, body)
    assert verdict.passed, verdict.findings[0].message


def test_the_machine_records_what_a_handler_answered(tmp_path):
    checks = ASKED + '[[checks]]\nname = "e"\nkind = "event"\nevent = "Cpuid"\n' \
        "fields = { leaf = 7, subleaf = 3, answer = [1, 2, 3, 4] }\n"
    body = "vp.regs.eax, vp.regs.ebx, vp.regs.ecx, vp.regs.edx = 1, 2, 3, 4\nreturn Advance()"
    verdict = handled(tmp_path, body, checks)
    assert verdict.passed, verdict.findings[1].message


@pytest.mark.parametrize("body", ["return Inject(6)", "raise GuestFault(6)"], ids=["inject", "raise"])
def test_a_fault_of_the_guests_is_injected_at_its_instruction(tmp_path, body):
    checks = ASKED + '[[checks]]\nname = "e"\nkind = "event"\nevent = "Fault"\nfields = { vector = 6 }\n' \
        '[[checks]]\nname = "t"\nkind = "ended"\nhow = "triple-fault"\n'
    assert handled(tmp_path, body, checks).passed


def test_halt_stops_the_vp_and_says_why(tmp_path):
    verdict = handled(tmp_path, "return Halt('no such leaf')", '[[checks]]\nname = "e"\nkind = "ended"\nhow = "halt"\n')
    assert "error (vp 0: no such leaf)" in verdict.findings[0].found


def test_a_handler_keeps_what_it_knows_from_exit_to_exit(tmp_path):
    guest = "start:\n    cpuid\n    cpuid\n    mov [0x200000], rax\n    hlt\n.org 0x200000\nseen: .quad 0\n"
    exercise = a_lab_of_handlers(tmp_path, ASKED + SEEN, guest)
    source = f"{IMPORT}count = 40\ndef handle(vp, exit):\n    global count\n    count += 1\n    vp.regs.eax = count\n" \
             "    return Advance()\n"
    assert verdict_on(exercise, source).passed


def test_an_exit_that_is_not_the_learners_is_answered_as_ever(tmp_path):
    guest = "start:\n    mov ecx, 0x40000002\n    rdmsr\n    add eax, 42\n    mov [0x200000], rax\n    hlt\n" \
            ".org 0x200000\nseen: .quad 0\n"
    assert handled(tmp_path, "return 1 / 0", ASKED + SEEN + HALTS, guest).passed


NO_ANSWER = {
    "nothing": ("pass", "handle returned None; expected a verdict, such as Advance()"),
    "class": ("return Advance", "handle returned the class Advance"),
    "word": ("return 'Advance'", "handle returned a value of type str"),
    "own-class": ("class Advance(tuple): pass\nreturn Advance()", "a value of type Advance"),
    "raises": ("return [][vp.regs.rax]", "a.py:3: raised IndexError"),
    "loop": ("while True: pass", "a.py:3: still running after 500 lines"),
    "asks": ("while True: vp.cpuid(0)", "asked more than 20 times"),
    "retry": ("return Retry()", "asked 50 times, and not again"),
    "exit": ("import os\nos._exit(0)", "ended its process (exit code 0)"),
    "vector": ("return Inject(32)", "handle returned Inject(0x20, None, None); expected a vector 0 to 31"),
    "vector-bool": ("return Inject(True)", "handle returned Inject(True, None, None)"),
    "vector-text": ("return Inject('GP')", "handle returned Inject('GP', None, None)"),
    "code-wide": ("return Inject(13, 1 << 32)", "expected a vector 0 to 31"),
    "no-code": ("return Inject(13)", "vector 13 pushes an error code"),
    "a-code": ("return Inject(6, 0)", "vector 6 pushes no error code"),
    "huge": ("return Inject(1 << 70)", "an integer of more than 64 bits"),
    "rip": ("vp.regs.rip += 2", "a.py:3: raised AttributeError: only the run loop moves RIP"),
    "no-register": ("vp.regs.eaxx = 2", "`eaxx` is no register that a handler writes"),
    "reads-none": ("return vp.regs.eaxx", "there is no register `eaxx`"),
    "wide": ("vp.regs.eax = vp.regs.rax", "eax takes a number of 32 bits; found 0xabcd00000007"),
    "negative": ("vp.regs.rax = -1", "rax takes a number of 64 bits; found -0x1"),
    "bool": ("vp.regs.rax = True", "rax takes a number of 64 bits; found bool"),
    "index": ("class A:\n    def __index__(self): return 1\nvp.regs.rax = A()", "found A"),
    "leaf": ("vp.cpuid(-1)", "cpuid takes a leaf of 32 bits; found -0x1"),
    "leaf-bool": ("vp.cpuid(True)", "cpuid takes a leaf of 32 bits; found True"),
    "subleaf": ("vp.cpuid(0, 1 << 40)", "cpuid takes a subleaf of 32 bits"),
}


@pytest.mark.parametrize(("body", "says"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_what_is_no_answer_is_found_and_stops_the_vp(tmp_path, body, says):
    verdict = handled(tmp_path, body, ASKED + HALTS)
    assert not verdict.findings[0].passed
    assert says in verdict.findings[0].found
    assert "(at E" in verdict.findings[0].found
    assert "error" in verdict.findings[1].found
    assert "\n" not in verdict.findings[0].found


# Around the kit: what it would refuse is written into the answer itself.
FORGED = {
    "bool": "vp.regs.general['rax'] = True", "huge": "vp.regs.general['rax'] = (1 << 64) - 1 << 8",
    "negative": "vp.regs.general['rax'] = -1", "text": "vp.regs.general['rax'] = '42'",
    "float": "vp.regs.general['rax'] = 42.0", "rip": "vp.regs.general['rip'] = 0x1234",
    "cr3": "vp.regs.general['cr3'] = 0", "attribute": "vp.regs.general['msrs'] = 1",
    "told": "sys._getframe(1).f_globals['_told'] = lambda verdict: ['AskParent']",
    "no-list": "sys._getframe(1).f_globals['_told'] = lambda verdict: 'Advance'",
    "nested": "sys._getframe(1).f_globals['_told'] = lambda verdict: [['Advance']]",
    "empty": "sys._getframe(1).f_globals['_told'] = lambda verdict: []",
    "long-halt": "sys._getframe(1).f_globals['_told'] = lambda verdict: ['Halt', 7]",
    "no-registers": "sys._getframe(1).f_globals['GENERAL'] = None\nvp.regs.__dict__['general'] = [1]",
}


@pytest.mark.parametrize("attack", FORGED.values(), ids=FORGED)
def test_what_a_piece_writes_past_its_kit_is_refused(tmp_path, attack):
    verdict = handled(tmp_path, f"import sys\n{attack}\nreturn Advance()", ASKED + SEEN + HALTS)
    assert [finding.passed for finding in verdict.findings] == [False, False, False]
    assert len(verdict.findings[0].found) < 300


def test_the_stop_of_a_piece_has_few_words(tmp_path):
    verdict = handled(tmp_path, "return Halt('x' * 5000)", HALTS)
    assert len(verdict.findings[0].found) < 300


def test_the_same_handlers_give_the_same_trace(tmp_path):
    assert handled(tmp_path, "return Advance()").trace_sha256 == handled(tmp_path, "return Advance()").trace_sha256


@pytest.mark.parametrize(("old", "new", "says"), [
    ("CPUID", "CUPID", "`CUPID` is no exit reason"), ('"handle"', '"1x"', "`1x` is no name of a function"),
    ("piece.exits]\nCPUID", "piece.hypercalls]\nPOST", "`POST` is no hypercall"),
    (ASKED, '[[checks]]\nname = "w"\nkind = "walk"\nrandom = 3\n', "are of kind neither answer nor walk"),
    ("[piece.exits]\nCPUID = \"handle\"\n", "", "of kind python are of kind walk"),
])
def test_a_lab_of_handlers_that_makes_no_sense_is_refused(tmp_path, old, new, says):
    assert old in EXITS + ASKED
    with pytest.raises(LabError, match=says):
        a_lab(tmp_path, (EXITS + ASKED).replace(old, new), kind="python", file="a.py", g__asm=GUEST)


def test_a_guest_has_no_piece_to_be_checked(tmp_path):
    with pytest.raises(LabError, match="neither answer nor walk nor piece"):
        a_lab(tmp_path, ASKED)


# --- hypercalls ------------------------------------------------------------------------------------------

CALLER = """
.include "lib/machine.inc"
start:
    call hypercall_init
    mov rcx, 2 << 32 | 0x9A
    mov edx, offset input
    mov r8d, offset output
    mov eax, HYPERCALL_PAGE
    call rax
    mov [seen], rax
    hlt
.include "lib/hypercall64.inc"
.org 0x200000
input:  .quad 1, 2, 3
seen:   .quad -1
.org 0x200FF0
output: .quad -1, -1
"""
HYPERCALLS = EXITS.replace('[piece.exits]\nCPUID = "handle"', '[piece.hypercalls]\nGET_VP_INDEX_FROM_APIC_ID = "done"')
OUTPUT = '[[checks]]\nname = "o"\nkind = "memory"\nsymbol = "output"\noffset = 4\nvalue = 7\nsize = 4\n'


def called(tmp_path, body, checks=ASKED):
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    exercise = a_lab_of_handlers(tmp_path, checks, CALLER, HYPERCALLS)
    return verdict_on(exercise, f"def done(call):\n{lines}")


def test_a_hypercall_reads_its_input_and_writes_its_output(tmp_path):
    body = "assert call.control == 2 << 32 | 0x9A and call.output_gpa == 0x200FF0 and call.vp_index == 0\n" \
           "assert call.read(call.input_gpa, 16) == bytes([1, *[0] * 7, 2, *[0] * 7])\n" \
           "assert call.apic_ids == [0] and call.partition_id and call.privileges >> 48\n" \
           "call.write(4, bytes([7, 0, 0, 0]))\nreturn 42"
    event = '[[checks]]\nname = "e"\nkind = "event"\nevent = "Hypercall"\n' \
            'fields = { code = "GET_VP_INDEX_FROM_APIC_ID", status = 42, reps = 0 }\n'
    verdict = called(tmp_path, body, ASKED + OUTPUT + SEEN + event + HALTS)
    assert verdict.passed, [finding.message for finding in verdict.findings]


NO_RESULT = {
    "none": ("pass", "done returned None; expected a result value"), "bool": ("return True", "done returned True"),
    "negative": ("return -1", "done returned -0x1"), "text": ("return '0'", "done returned '0'"),
    "huge": ("return 1 << 64", "an integer of more than 64 bits"),
    "read-nowhere": ("call.read(1 << 50, 8)", "the guest has no memory at 0x4000000000000"),
    "read-much": ("call.read(0, 5000)", "read takes an address and a size up to 4096"),
    "read-negative": ("call.read(-8, 8)", "read takes an address"), "read-bool": ("call.read(True, 8)", "read takes"),
    "write-before": ("call.write(-16, b'x')", "write takes a place behind"),
    "write-beyond": ("call.write(9, bytes(8))", "all in one page"),
    "write-far": ("call.write(1 << 40, b'')", "all in one page"),
    "write-text": ("call.write(0, 'text')", "write takes a place behind"),
    "no-door": ("call.poke(1)", "raised AttributeError"),
}


@pytest.mark.parametrize(("body", "says"), NO_RESULT.values(), ids=NO_RESULT)
def test_what_is_no_result_is_found(tmp_path, body, says):
    verdict = called(tmp_path, body, ASKED + HALTS)
    assert says in verdict.findings[0].found
    assert not verdict.findings[1].passed


def test_a_hypercall_is_taken_from_the_hypercall_page_only(tmp_path):
    guest = CALLER.replace("    call rax\n", "    vmcall\n")
    exercise = a_lab_of_handlers(tmp_path, ASKED + '[[checks]]\nname = "e"\nkind = "event"\nevent = "Fault"\n'
                                 "fields = { vector = 6 }\n", guest, HYPERCALLS)
    assert verdict_on(exercise, "def done(call):\n    return 1 / 0\n").passed


def test_another_hypercall_is_done_as_ever(tmp_path):
    guest = CALLER.replace("2 << 32 | 0x9A", "0xFFF")
    exercise = a_lab_of_handlers(tmp_path, ASKED + SEEN.replace("42", "2"), guest, HYPERCALLS)
    assert verdict_on(exercise, "def done(call):\n    return 1 / 0\n").passed


def test_the_lab_of_a_hypercall_expects_what_our_own_call_does():
    """The APIC ids of its VPs have gaps; so they have when the hypervisor answers."""
    exercise = read(LABS / "20_hypercall")
    own = FinishedRun(given(exercise.folder, exercise.data.program), exercise.data.limits, exercise.data.machine)
    for vp, apic_id in zip(own.vms["lab"].partition.vps.values(), exercise.data.piece.apic_ids, strict=True):
        vp.apic.apic_id = apic_id
    solution = prepare(exercise, exercise.solution)
    seen = []
    for run in (own, solution):
        run.go()
        places = [run.symbol("lab", name) for name in ("results", "first", "output", "holes", "long_output")]
        seen.append([run.read("lab", place, 64) for place in places] + [run.read("lab", places[0] + 64, 80)])
        run.close()
    assert seen[0] == seen[1]
