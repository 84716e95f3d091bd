"""Questions are judged by what the machine really does; a wrong answer is not told the right one."""

import pytest

from hv.lab.errors import LabError
from hv.lab.report import report
from tests.lab.folders import HALTS, a_lab, verdict_on

PROGRAM = """
start:
    mov eax, 0x40000000
    cpuid
    mov [0x200000], ebx
    mov ecx, 0x40000000
    rdmsr
    mov ebp, 77
    hlt
.org 0x200000
word: .skip 4
"""


def question(truth, more=""):
    return (f'program = "p.asm"\n[[checks]]\nname = "it"\nkind = "answer"\nquestion = "it"\n'
            f'truth = {truth}\n{more}')


def asked(tmp_path, truth, answers, more=""):
    exercise = a_lab(tmp_path, question(truth, more), kind="predict", file="answers.toml", p__asm=PROGRAM)
    return verdict_on(exercise, answers)


TRUTHS = {
    "count": ('{ of = "count", exit = "any" }', "3", "4"),
    "count-of-a-kind": ('{ of = "count", event = "Cpuid" }', "1", "0"),
    "field-by-number": ('{ of = "field", event = "MsrRead", field = "msr" }', "0x40000000", "0x40000001"),
    "field-by-name": ('{ of = "field", event = "MsrRead", field = "msr" }', '"HV_GUEST_OS_ID"', '"HV_EOI"'),
    "field-of-an-answer": ('{ of = "field", exit = "CPUID", field = "leaf" }', '"0x40000000"', "1"),
    "reason": ('{ of = "field", exit = "any", field = "reason", nth = 2 }', '"rdmsr"', '"CPUID"'),
    "place": ('{ of = "place", exit = "RDMSR" }', "7", "6"),
    "memory": ('{ of = "memory", symbol = "word", size = 4 }', "0x7263694d", "0"),
    "vmcs": ('{ of = "vmcs", field = "GUEST_CS_SELECTOR" }', "8", "16"),
    "vmcs-bit": ('{ of = "vmcs", field = "PRIMARY_PROC_CONTROLS", bit = "HLT_EXITING" }', '"Yes"', '"no"'),
    "register": ('{ of = "register", register = "rbp" }', "77", '"seventy"'),
    "ended": ('{ of = "ended" }', '"HALT"', '"triple fault"'),
    "serial": ('{ of = "serial" }', '"nothing"', '"x"'),
    "choice": ('{ of = "choice", options = [ { name = "msr write", says = "", when = { event = "MsrWrite" } }, '
               '{ name = "msr read", says = "", when = { exit = "RDMSR" } }, { name = "none", says = "" } ] }',
               '"MSR_read"', '"none"'),
}


@pytest.mark.parametrize(("truth", "right", "wrong"), TRUTHS.values(), ids=TRUTHS)
def test_an_answer_is_compared_with_what_happened(tmp_path, truth, right, wrong):
    if right != '"nothing"':
        assert asked(tmp_path, truth, f"it = {right}\n").passed
    verdict = asked(tmp_path, truth, f"it = {wrong}\n")
    assert not verdict.passed
    assert verdict.findings[0].message.endswith("is not what the machine does")
    told = report(verdict).replace("0/1", "")
    assert right.strip('"') not in told or len(right) < 3


def test_a_known_wrong_answer_has_its_own_words(tmp_path):
    more = '[[checks.mistakes]]\nfound = "2"\nsays = "HLT is an exit too"\n'
    assert asked(tmp_path, TRUTHS["count"][0], "it = 2\n", more).findings[0].message == "HLT is an exit too"
    assert "HLT" not in asked(tmp_path, TRUTHS["count"][0], "it = 12\n", more).findings[0].message


@pytest.mark.parametrize("answers", ['it = "?"\n', "", 'it = ""\n'], ids=["mark", "absent", "empty"])
def test_what_is_not_answered_is_told_so(tmp_path, answers):
    finding = asked(tmp_path, TRUTHS["count"][0], answers).findings[0]
    assert finding.message == "expected an answer to `it`, found no answer yet"


def test_a_choice_that_is_none_of_them_is_told_which_there_are(tmp_path):
    finding = asked(tmp_path, TRUTHS["choice"][0], 'it = "read"\n').findings[0]
    assert finding.message == "expected msr write or msr read or none as `it`, found read"


@pytest.mark.parametrize("answer", ["[1]", "true", "1.5", "{ a = 1 }"])
def test_an_answer_is_a_number_or_a_word(tmp_path, answer):
    assert asked(tmp_path, TRUTHS["count"][0], f"it = {answer}\n").findings[0].found == "something else"


REFUSED = {
    "no-value": ("it = \n", "answers.toml:1:6: this is no value"),
    "bare-word": ("\nit = halt\n", "answers.toml:2:6: this is no value: write a number, or a word in quotes"),
    "no-equals": ("it 3\n", "answers.toml:1:4: `=` is missing"),
    "open-quotes": ('it = "x\n', "the quotes are not closed"),
    "two-values": ("it = 3 4\n", "answers.toml:1:8: something stands behind the value"),
    "twice": ("it = 3\nit = 4\n", "answers.toml:2:7: this question is answered twice"),
    "misspelt": ("itt = 3\n", "there is no question `itt`; did you mean `it`?"),
    "unknown": ("colour = 3\n", "there is no question `colour`; the questions are it"),
    "no-text": ("\0", "answers.toml:1:1: this is no answer"),
    "deep": ("it = " + "[" * 5000, "too deep"),
    "long-number": ("it = " + "9" * 5000, "too long"),
}


@pytest.mark.parametrize(("answers", "says"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_makes_no_sense_is_told_with_line_and_column(tmp_path, answers, says):
    verdict = asked(tmp_path, TRUTHS["count"][0], answers)
    assert says in verdict.refused
    assert "\n" not in verdict.refused
    assert str(tmp_path) not in verdict.refused


BROKEN = {
    "no-program": (HALTS, "`program` is missing"),
    "no-question": ('program = "p.asm"\n' + HALTS, "of kind predict are of kind answer"),
    "unknown-event": (question('{ of = "count", event = "Magic" }'), "`Magic` is no event"),
    "unknown-exit": (question('{ of = "count", exit = "MAGIC" }'), "`MAGIC` is no exit reason"),
    "both": (question('{ of = "count", exit = "HLT", event = "Cpuid" }'), "name an event or an exit"),
    "unknown-field": (question('{ of = "count", event = "Cpuid", fields = { colour = 1 } }'), "no field `colour`"),
    "unknown-name": (
        question('{ of = "count", event = "MsrRead", fields = { msr = "X" } }'), "`X` is no name of a msr"),
    "unknown-register": (question('{ of = "register", register = "xyz" }'), "`xyz` is no register"),
    "one-option": (question('{ of = "choice", options = [ { name = "a", says = "" } ] }'), "length >= 2"),
    "same-option": (question('{ of = "choice", options = [ { name = "a", says = "", when = { exit = "HLT" } }, '
                             '{ name = "A", says = "" } ] }'), "two options have the same name"),
    "late-option": (question('{ of = "choice", options = [ { name = "a", says = "" }, { name = "b", says = "" } ] }'),
                    "only the last option"),
}


@pytest.mark.parametrize(("text", "says"), BROKEN.values(), ids=BROKEN)
def test_a_question_that_makes_no_sense_is_refused(tmp_path, text, says):
    with pytest.raises(LabError) as caught:
        a_lab(tmp_path, text, kind="predict", file="answers.toml")
    assert says in str(caught.value)


def test_the_file_of_a_kind_ends_as_it_should(tmp_path):
    with pytest.raises(LabError, match=r"of kind predict it ends in \.toml"):
        a_lab(tmp_path, question(TRUTHS["count"][0]), kind="predict", file="a.asm")


def test_the_starter_of_a_prediction_is_a_file_of_answers(tmp_path):
    exercise = a_lab(tmp_path, question(TRUTHS["count"][0]), kind="predict", file="answers.toml")
    assert exercise.starter.name == "starter.toml"
    assert exercise.questions == ["it"]
