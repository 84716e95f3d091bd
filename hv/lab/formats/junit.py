"""JUnit XML, as GitLab, Jenkins, CodeGrade and editors read it: a suite for each submission.

Partial credit does not exist in it: such a check is a failure whose message begins with its points. Points stand as
properties below each case. What could not be graded is `error` in each case, what was not judged is `skipped`.
Times, dates and hosts are left out: a result has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from hv.lab.formats.registry import told, whole_class
from hv.lab.result import CheckResult, Outcome, Result, Status
from hv.lab.words import plain

# What XML 1.0 has no way to write ("Characters", production 2); texts of a result are printable already.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@whole_class("junit", "junit.xml")
def write(results: Sequence[Result]) -> str:
    """A whole document."""
    root = Element("testsuites", name="hvlab")
    for one in results:
        _suite(root, one)
    ElementTree.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def _suite(root: Element, one: Result) -> None:
    suite = SubElement(root, "testsuite", name=_text(f"{one.exercise}: {one.submission}"))
    properties = SubElement(suite, "properties")
    for name, value in (("status", str(one.status)), ("sha256", one.sha256), ("lab_sha256", one.lab_sha256),
                        ("tool", one.tool)):
        SubElement(properties, "property", name=name, value=_text(value))
    kinds = [_case(suite, one, check) for check in one.checks]
    suite.attrib |= {"tests": str(len(kinds)), "failures": str(kinds.count("failure")),
                     "errors": str(kinds.count("error")), "skipped": str(kinds.count("skipped"))}


def _case(suite: Element, one: Result, check: CheckResult) -> str:
    """One check; which of the three elements says that it did not pass, or nothing."""
    case = SubElement(suite, "testcase", classname=_text(f"hvlab.{one.exercise}"), name=_text(check.name))
    if check.source_line is not None:
        case.attrib |= {"file": _text(check.source_line[0]), "line": str(check.source_line[1])}
    properties = SubElement(case, "properties")
    for name, value in (("points", plain(check.score)), ("max_points", plain(check.max_score)),
                        ("visibility", "hidden" if check.hidden else "visible")):
        SubElement(properties, "property", name=name, value=str(value))
    kind = _kind(one, check)
    if kind:
        points = f"{plain(check.score)}/{plain(check.max_score)} points: " if kind == "failure" else ""
        why = SubElement(case, kind, message=_text(points + (check.message or one.message)), type=_type(one, check))
        if kind != "skipped":
            why.text = _text("\n".join(told(check)))
    return kind


def _kind(one: Result, check: CheckResult) -> str:
    if one.status is not Status.GRADED:
        return "error"
    return {Outcome.PASSED: "", Outcome.WAITING: "skipped"}.get(check.outcome, "failure")


def _type(one: Result, check: CheckResult) -> str:
    return str(check.outcome if one.status is Status.GRADED else one.status)


def _text(text: str) -> str:
    return _NO_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
