"""What a Mermaid flowchart of ours may consist of: the part of its grammar that the map uses, and that nothing dangles.

https://mermaid.js.org/syntax/flowchart.html. The real parser reads it too, where somebody has it: `test_map.py`.
"""

import re

_ID, _TEXT = r"[A-Z]+\d*(?:[A-Z]\d+)?", r'"[^"\n]*"'
_SHAPES = (rf"\[{_TEXT}\]", rf"\(\[{_TEXT}\]\)", rf"\[\({_TEXT}\)\]", rf"\{{\{{{_TEXT}\}}\}}", rf"\[/{_TEXT}/\]")
_NODE = re.compile(rf"({_ID})(?:{'|'.join(_SHAPES)})")
_ARROW = re.compile(rf"({_ID}) (?:-->|==>|-\.->)(?:\|{_TEXT}\|)? ({_ID})(?: --> ({_ID}))?")
_SUBGRAPH = re.compile(rf"subgraph ({_ID})\[{_TEXT}\]")


def broken_rules(chart: str) -> list[str]:
    """Each line that is wrong, and each name that an arrow uses and nobody has."""
    lines = chart.splitlines()
    wrong = [] if lines[:1] == ["flowchart LR"] else ["it does not begin with flowchart LR"]
    named, used, depth = set(), set(), 0
    for line in lines[1:]:
        text = line.strip()
        if text == "end":
            depth -= 1
        elif found := _SUBGRAPH.fullmatch(text):
            depth += 1
            named.add(found[1])
        elif found := _NODE.fullmatch(text):
            wrong += [f"{found[1]} is there twice"] if found[1] in named else []
            named.add(found[1])
        elif found := _ARROW.fullmatch(text):
            used |= {name for name in found.groups() if name}
        else:
            wrong.append(f"this is nothing: {line}")
    wrong += ["subgraph and end do not match"] if depth else []
    return wrong + [f"nobody is called {name}" for name in sorted(used - named)]
