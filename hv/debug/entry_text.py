"""A VM entry explained, as lines for people. Each line is pieces of (style, text), so that a terminal may colour them.

The reason comes first: how the entry ends, then for each rule the field with its bits by name, what was found, and what
is required.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from hv.spec.vmcs import VmcsField
from hv.vmx.capabilities import COMPLETE, PROCESSOR, Capabilities
from hv.vmx.checks import RULES
from hv.vmx.checks.explain import Explanation
from hv.vmx.checks.outcome import Failure
from hv.vmx.checks.words import decoded, in_words, names_of

Line = list[tuple[str, str]]            # pieces of (style, text); a style is "", "bold", "dim", "good" or "bad"

_MEANINGS = {7: "VM entry with invalid control field(s)", 8: "VM entry with invalid host-state field(s)"}
_INVALID_GUEST = "VM-entry failure due to invalid guest state"
_FEW, _COLUMN, _HANG = 8, 13, 6         # a field's value or a text begins behind the label's column
WIDTH, _WIDEST = 80, 110                # of a line; that of a terminal, as far as people like to read


def plain(lines: Iterator[Line]) -> str:
    """The text alone."""
    return "\n".join("".join(text for _, text in line).rstrip() for line in lines)


def told(explanation: Explanation, verbose: bool = False, width: int = WIDTH) -> Iterator[Line]:
    """Everything there is to say about *explanation*, in lines of *width*; all that was assumed when *verbose*."""
    for line in _lines(explanation, verbose):
        yield from _folded(line, max(min(width, _WIDEST), WIDTH))


def _lines(explanation: Explanation, verbose: bool) -> Iterator[Line]:
    yield from _headline(explanation)
    if explanation.contradiction:
        yield _contradiction(explanation)
    for number, failure in enumerate(explanation.failures, 1):
        yield []
        yield from _failure(explanation, failure, number)
        yield from _conditions(explanation, failure, verbose)
        yield from _sources(explanation, failure)
    if explanation.failures:
        yield []
        yield from _mended(explanation)
    yield from _footnotes(explanation, verbose)


def _folded(line: Line, width: int) -> Iterator[Line]:
    """*line* in as many lines as it needs; what is carried over stands below the text, not below the label."""
    indent = " " * (_COLUMN if line and len(line[0][1]) == _COLUMN else _HANG)
    folded: Line = []
    room = width
    for style, text in line:
        for word in re.findall(r" *[^ ]+| +$", text):
            if len(word) > room and folded and word.strip():
                yield folded
                word = word.lstrip(" ")
                folded, room = [("", indent)], width - len(indent)
            folded.append((style, word))
            room -= len(word)
    yield folded


def _headline(explanation: Explanation) -> Iterator[Line]:
    if explanation.entered:
        yield _success(len(RULES), len(explanation.unchecked), bool(explanation.without_rules))
        return
    first, count = explanation.failures[0], len(explanation.failures)
    meaning = _MEANINGS[int(first.error)] if first.error is not None else _INVALID_GUEST
    yield [("bad", f"VM entry fails: {first.words}"), ("", f" ({_numbers(first)})")]
    yield [("", f"{meaning}; {count} of {len(RULES)} rules {'does' if count == 1 else 'do'} not hold")]


def _success(count: int, unchecked: int, without_rules: bool) -> Line:
    if not unchecked and not without_rules:
        return [("good", "VM entry succeeds"), ("", f": all {count} rules hold")]
    if not unchecked:
        return [("bold", "VM entry succeeds, as far as this can tell"), ("", f": all {count} rules hold")]
    return [("bold", "VM entry succeeds, as far as this can tell"),
            ("", f": {count - unchecked} rules hold, {unchecked} {'was' if unchecked == 1 else 'were'} not checked")]


def _contradiction(explanation: Explanation) -> Line:
    """What the user's processor said is not what the rules say of what the user wrote down."""
    reported = explanation.contradiction
    first = next((number for number, failure in enumerate(explanation.failures, 1)
                  if failure.words.startswith(reported)), None)
    if first:
        why = f"your processor got as far as rule {first} below"
    elif reported == "VM exit 34" and explanation.entered:
        number = explanation.entry.values[VmcsField.EXIT_QUALIFICATION]
        why = f"the rules held, and entry {number} of the VM-entry MSR-load area was refused"
    elif reported == "VM exit 41" and explanation.entered:
        why = "a machine check came during VM entry"
    else:
        why = "what is given does not explain it; look among what is assumed" \
            + (", and not checked" if explanation.unchecked else "")
    return [("bad", f"But the VMCS reports {reported}"), ("", f": {why}")]


def _numbers(failure: Failure) -> str:
    """What software reads after this failure: the number that people search for."""
    if failure.exit_reason is not None:
        return f"exit reason {failure.exit_reason.raw:#x}"
    return f"VM-instruction error {int(failure.error or 0)}"


def _failure(explanation: Explanation, failure: Failure, number: int) -> Iterator[Line]:
    rule, broken, values = failure.rule, failure.broken, explanation.entry.values
    mark = "   <- the processor stops here" if number == 1 and len(explanation.failures) > 1 else ""
    yield [("bold", f"{number}. {rule.id}"), ("dim", mark)]
    for field in rule.fields:
        yield [("", "   "), *_field(explanation, field)]
    yield _labelled("found", "bad", broken.found)
    yield _labelled("required", "good", broken.required)
    for field, value in broken.fix.items():
        yield [*_labelled("change", "", f"{field.name} = "), ("bold", f"{value:#x}"),
               ("dim", _difference(field, values[field], value))]
    if not broken.fix:
        yield _labelled("change", "", "none in the VMCS")


def _conditions(explanation: Explanation, failure: Failure, verbose: bool) -> Iterator[Line]:
    """The fields that make the rule apply; those that nobody gave at least by name, since they decide as well."""
    fields = failure.rule.reads[len(failure.rule.fields):]
    if verbose:
        for label, field in zip(("because", *("" for _ in fields)), fields, strict=False):
            yield [*_labelled(label, "", ""), *(("dim", text) for _, text in _field(explanation, field))]
        return
    values = explanation.entry.values
    unknown = [f"{field.name} = {values[field]:#x}" for field in fields if field in explanation.assumed]
    if unknown:
        yield _labelled("assumed", "dim", ", ".join(unknown))


def _sources(explanation: Explanation, failure: Failure) -> Iterator[Line]:
    """The rule, and where it stands; its outcome where that is not the first one's."""
    words = "" if failure.words == explanation.outcome else f": {failure.words}"
    yield _labelled("rule", "dim", failure.rule.text)
    yield _labelled("manual", "dim", f'SDM "{failure.rule.heading}" ({failure.rule.group.value}{words})')


def _labelled(label: str, style: str, text: str) -> Line:
    return [("dim", f"   {label:<10}"), (style, text)]


def _field(explanation: Explanation, field: VmcsField) -> Line:
    value = explanation.entry.values[field]
    words = decoded(field, value)
    return [("bold", field.name), ("", f" = {value:#x}"), ("", f"   {words}" if words else ""),
            ("dim", _if_assumed(explanation, field))]


def _if_assumed(explanation: Explanation, field: VmcsField) -> str:
    return "   (assumed)" if field in explanation.assumed else ""


def _difference(field: VmcsField, old: int, new: int) -> str:
    """`   set bit 0 (PE)`, where bits have names or there are few of them."""
    on, off = new & ~old, old & ~new
    if (on | off).bit_count() > 4 and not names_of(field):
        return ""
    words = [f"{verb} {in_words(field, mask)}" for verb, mask in (("set", on), ("clear", off)) if mask]
    return f"   {', '.join(words)}"


def _mended(explanation: Explanation) -> Iterator[Line]:
    if explanation.mended is None:
        yield [("", "These changes one by one do not lead to a state that is entered.")]
        return
    yield [("good", "With these changes the guest is entered:")]
    for field, value in explanation.mended.items():
        difference = _difference(field, explanation.entry.values[field], value)
        yield [("", f"   {field.name} = {value:#x}"), ("dim", difference + _if_assumed(explanation, field))]


def _footnotes(explanation: Explanation, verbose: bool) -> Iterator[Line]:
    yield []
    for rule in explanation.unchecked:
        yield [("bad", "not checked: "), ("", f"{rule.id}: {rule.text} There is no memory to read.")]
    if explanation.without_rules:
        yield [("bad", "not checked: "), ("", f"what the manual says of {', '.join(explanation.without_rules)}: these "
                                              "rules are not here.")]
    msrs = sorted({msr for asked in explanation.asked.values() for msr in asked})
    if msrs:
        names = ", ".join(f"IA32_{msr.name} (MSR {int(msr):#x})" for msr in msrs)
        yield [("", f"of the processor below, not of yours: {names}. Add your machine's to the JSON.")]
    if explanation.assumed:
        yield from _assumed(explanation, verbose)
    entry = explanation.entry
    mode = "in" if entry.ia32e_now else "outside"
    yield [("dim", f"processor: {processor_words(entry.processor)}, {mode} IA-32e mode")]


def _assumed(explanation: Explanation, verbose: bool) -> Iterator[Line]:
    fields, values = explanation.assumed, explanation.entry.values
    given = [field.name for field in VmcsField if not field.read_only and field not in fields]
    some = f"all fields but {', '.join(given)}" if given and len(given) <= _FEW else f"{len(fields)} fields"
    yield [("dim", f"assumed: {some}, as in a small valid 64-bit guest"
            + ("" if verbose else " (--verbose: each of them)"))]
    if verbose:
        yield from _each_assumed(fields, values)


def _each_assumed(fields: Iterable[VmcsField], values: Mapping[VmcsField, int]) -> Iterator[Line]:
    """A line for each that is not 0, and those that are in one."""
    some = [field for field in fields if values[field]]
    width = max((len(field.name) for field in some), default=0)
    for field in some:
        words = decoded(field, values[field])
        yield [("dim", f"   {field.name:<{width}}  {values[field]:#x}   {words}")]
    zero = ", ".join(field.name for field in fields if not values[field])
    if zero:
        yield [("dim", f"   0: {zero}")]


def processor_words(processor: Capabilities) -> str:
    """Which processor was asked, in a few words."""
    known = {id(PROCESSOR): "the one modelled here", id(COMPLETE): "one with every feature of the manual"}
    name = known.get(id(processor), "one with the capability MSRs that were given")
    return f"{name}, {processor.physical_bits} bits of physical address"


def rules_told() -> Iterator[Line]:
    """Every rule, by heading."""
    heading = ""
    for rule in RULES:
        if rule.heading != heading:
            heading = rule.heading
            yield [("bold", f'SDM "{heading}" ({rule.group.value})')]
        yield [("", f"   {rule.id}")]
        yield [("dim", f"      {rule.text}")]
