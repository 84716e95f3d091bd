"""Intercepts: what a parent asked to hear of, and the messages by which it hears.

TLFS "Intercepts". `table.py` is what the parent installed. A child that does such a thing waits, and the message
(`intercepts.py`) says to its parent what it was; INS and OUTS are told one element at a time (`string_io.py`).
`left_out.py` gives a reason for each type of intercept and of message that is not built.

Read `table.py` first, then `intercepts.py`.
"""
