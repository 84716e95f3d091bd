"""Results to write down: right ones, wrong ones, and hostile ones."""

from pathlib import Path

from hv.lab.checks import Finding, Mark
from hv.lab.grading import Grade, Submission
from hv.lab.runner import Verdict
from tests.lab.exercises import first_exit

PASSED = Finding(True, "a halt", "a halt")
FAILED = Finding(False, "a halt", "a loop", [(Mark.BAD, "a.asm:7  loop"), (Mark.MISSING, "halt")], "there is a loop")
WAITING = Finding(False, "", "", [], "judged when `x` passes", waiting=True)

NASTY = {
    "control": "\x00\x01\x08\x0b\x0c\x1b[2J\x1b]0;pwned\x07\x7f\x85\u2028",
    "lines": "one\ntwo\r\nthree\rfour\tfive",
    "markup": "<script>alert(1)</script> ]]> <!-- &amp; \"quoted\" 'too' <![CDATA[",
    "markdown": "`` ` ``` | \\| \\ [x](http://e) ![y](z) **b** @all # h <b> ~~~ $x$ ``",
    "workflow": "::error file=a::x%0A\n::set-output name=result::1",
    "formula": "=HYPERLINK(\"http://e\")",
    "surrogates": "\udcff\ud800 \ufffe\uffff",
    "wide": "\U0001f980\u202e\u0301\u200b\ufeff",
    "nan": "NaN",
    "long": "x" * 3_000_000,
    "empty": "",
    "blanks": "    \t ",
}


def graded(*findings, name="a.asm", status="graded", refused="", message="", exercise=None):
    verdict = Verdict(exercise or first_exit(), "a.asm", refused, list(findings))
    return Grade(Submission(name, Path("a.asm")), status, "0" * 64, refused or message, verdict).result


def hostile(text):
    """*text* wherever a submission can put any."""
    lines = [(Mark.BAD, f"{text}:7  {text}"), (Mark.MISSING, text)] * 50
    finding = Finding(False, text, text, lines, text)
    return graded(finding, PASSED, finding, name=text, message=text)


RESULTS = {
    "all": graded(PASSED, PASSED, PASSED), "none": graded(FAILED, FAILED, FAILED),
    "some": graded(PASSED, FAILED, WAITING),
    "not-gradable": graded(status="not_gradable", refused="a.asm:1: `mvo` is no instruction"),
    "grader-error": graded(status="grader_error", refused="the grader failed, not you"),
}
