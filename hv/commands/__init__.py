"""The commands of `hv`, one module each, and what they share.

A command is a module with `add_arguments(parser)` and `main(args) -> int` (its exit code), entered in the table of
`hv/cli.py`. It sees every room and is seen by nobody but `cli`. Its docstring is the text of its `--help`. Modules
import the machine when they run, not when they are imported: `hv run --help` must not wait for a CPU engine.

Who shows something shows what the events or the memory say, never what ought to be true: a line of `hv demo` is
computed from the run that was just made.

Read `run.py` first. `errors.py` has the one exception a command may end with, `report.py` the file that is written when
the mistake was ours, `files.py` where guests and labs are, `screen.py` when output may be coloured.
"""
