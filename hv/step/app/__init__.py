"""The step-through screen in a terminal, with Textual: it paints what `hv/step/board.py` makes, and takes keys and the
mouse.

Everything that knows the machine is outside this folder, and nothing outside imports Textual. Read `screen.py`
first; `looks.py` says how the styles of `hv/step/text.py` look, light, dark and without colours.
"""
