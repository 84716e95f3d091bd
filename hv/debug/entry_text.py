"""A VM entry explained, as lines for people. Each line is pieces of (style, text), so that a terminal may colour them.

The reason comes first: how the entry ends, then for each rule the field with its bits by name, what was found, and what
is required.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from hv.spec.vmcs import VmcsField
from hv.vmx.capabilities import COMPLETE, PROCESSOR, Capabilities
from hv.vmx.checks import RULES, Broken, Entry
from hv.vmx.checks.explain import Explanation
from hv.vmx.checks.outcome import Failure
from hv.vmx.checks.words import decoded, in_words, names_of

Line = list[tuple[str, str]]            # pieces of (style, text); a style is "", "bold", "dim", "good" or "bad"

_MEANINGS = {7: "VM entry with invalid control field(s)", 8: "VM entry with invalid host-state field(s)"}
_FEW, _WIDTH = 8, 110


def plain(lines: Iterator[Line]) -> str:
    """The text alone."""
    return "\n".join("".join(text for _, text in line).rstrip() for line in lines)


def told(explanation: Explanation, verbose: bool = False) -> Iterator[Line]:
    """Everything there is to say about *explanation*; all that was assumed when *verbose*."""
    yield _headline(explanation)
    for number, failure in enumerate(explanation.failures, 1):
        yield []
        yield from _failure(explanation, failure, number)
        if verbose:
            yield from _conditions(explanation, failure)
    if explanation.failures:
        yield []
        yield from _mended(explanation)
    yield from _footnotes(explanation, verbose)


def _headline(explanation: Explanation) -> Line:
    if explanation.entered:
        unchecked = len(explanation.unchecked)
        holding = f"{len(RULES) - unchecked} rules hold, {unchecked} could not be checked"
        words = holding if unchecked else f"all {len(RULES)} rules hold"
        if not unchecked and not explanation.without_rules:
            return [("good", "VM entry succeeds"), ("", f": {words}")]
        return [("good", "VM entry succeeds"), ("bad", ", if what could not be checked holds"), ("", f": {words}")]
    first, count = explanation.failures[0], len(explanation.failures)
    meaning = _MEANINGS[int(first.error)] if first.error is not None else "VM-entry failure due to invalid guest state"
    return [("bad", f"VM entry fails: {first.words}"), ("", f" ({meaning}). "),
            ("", f"{count} of {len(RULES)} rules {'does' if count == 1 else 'do'} not hold")]


def _failure(explanation: Explanation, failure: Failure, number: int) -> Iterator[Line]:
    rule, broken, values = failure.rule, failure.broken, explanation.entry.values
    mark = "   <- the processor stops here" if number == 1 and len(explanation.failures) > 1 else ""
    yield [("bold", f"{number}. {rule.id}"), ("dim", mark)]
    for field in rule.fields:
        yield [("", "   "), *_field(explanation, field)]
    yield from _wrapped("found", "bad", broken.found)
    yield from _wrapped("required", "good", broken.required)
    for field, value in broken.fix.items():
        yield [("", f"   change    {field.name} = "), ("bold", f"{value:#x}"),
               ("dim", _difference(field, values[field], value))]
    if not broken.fix:
        yield [("", "   change    none in the VMCS")]
    yield from _wrapped("rule", "dim", rule.text)
    yield from _wrapped("manual", "dim", f'SDM "{rule.heading}" ({rule.group.value}: {failure.words})')


def _conditions(explanation: Explanation, failure: Failure) -> Iterator[Line]:
    """The fields that make the rule apply."""
    label = "because"
    for field in failure.rule.reads[len(failure.rule.fields):]:
        yield [("dim", f"   {label:<10}"), *(("dim", text) for _, text in _field(explanation, field))]
        label = ""


def _wrapped(label: str, style: str, text: str) -> Iterator[Line]:
    """*text* behind its label, in as many lines as it needs."""
    for piece in wrap(text, _WIDTH - 13, break_long_words=False, break_on_hyphens=False):
        yield [("dim", f"   {label:<10}"), (style, piece)]
        label = ""


def _field(explanation: Explanation, field: VmcsField) -> Line:
    value = explanation.entry.values[field]
    words = decoded(field, value)
    line = [("bold", field.name), ("", f" = {value:#x}"), ("", f"   {words}" if words else "")]
    return [*line, ("dim", "   (assumed)")] if field in explanation.assumed else line


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
        yield [("", f"   {field.name} = {value:#x}"),
               ("dim", _difference(field, explanation.entry.values[field], value))]


def _footnotes(explanation: Explanation, verbose: bool) -> Iterator[Line]:
    yield []
    for rule in explanation.unchecked:
        yield [("bad", "not checked: "), ("", f"{rule.id}: {rule.text} There is no memory to read.")]
        for field in rule.fields:
            yield [("", "   "), *_field(explanation, field)]
    if explanation.without_rules:
        yield [("bad", "not checked: "), ("", f"what the manual says of {', '.join(explanation.without_rules)}: these "
                                              "rules are not here.")]
    yield from _of_another_processor(explanation)
    if explanation.assumed:
        yield from _assumed(explanation, verbose)
    entry = explanation.entry
    mode = "in" if entry.ia32e_now else "outside"
    yield [("dim", f"processor: {processor_words(entry.processor)}; VMLAUNCH is executed {mode} IA-32e mode")]


def _of_another_processor(explanation: Explanation) -> Iterator[Line]:
    """A VMCS that somebody wrote down may be of a machine with more features than the one modelled here."""
    entry = explanation.entry
    if entry.processor is not PROCESSOR or not explanation.assumed:
        return
    elsewhere = Entry(entry.values, COMPLETE, entry.memory, entry.ia32e_now, entry.current_vmcs)
    count = sum(not isinstance(failure.rule.check(elsewhere), Broken) for failure in explanation.failures)
    if count:
        asks = "ask" if count > 1 else "asks"
        yield [("bold", f"{count} of these {asks} for what the processor modelled here lacks"),
               ("", ": for another machine give --processor complete, or its capability MSRs in FILE")]


def _assumed(explanation: Explanation, verbose: bool) -> Iterator[Line]:
    fields, values = explanation.assumed, explanation.entry.values
    given = [field.name for field in VmcsField if not field.read_only and field not in fields]
    some = f"all fields but {', '.join(given)}" if given and len(given) <= _FEW else f"{len(fields)} fields"
    text = f"assumed: {some}, as in a small valid 64-bit guest" + ("" if verbose else " (--verbose: each of them)")
    yield from ([("dim", piece)] for piece in wrap(text, _WIDTH, subsequent_indent="   "))
    if verbose:
        width = max(len(field.name) for field in fields)
        for field in fields:
            words = decoded(field, values[field]) if values[field] else ""
            yield [("dim", f"   {field.name:<{width}}  {values[field]:#x}   {words}")]


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
