"""Interrupt lines: levels, and who hears of their changes."""

from hv.root.lines import InterruptLines


def test_a_listener_hears_of_changes_only():
    lines, heard = InterruptLines(), []
    lines.listen(lambda number, asserted: heard.append((number, asserted)))
    wire = lines.line(4)
    for asserted in (True, True, False, False):
        wire(asserted)
    assert heard == [(4, True), (4, False)]


def test_a_pulse_is_asserted_and_taken_back():
    lines, heard = InterruptLines(), []
    lines.listen(lambda number, asserted: heard.append((number, asserted)))
    lines.pulse(0)
    assert heard == [(0, True), (0, False)]
    assert not any(lines.asserted)
