"""The door of the program: `hv`, and `python -m hv`.

It loads next to nothing itself, since Ctrl-C may come while the rest is being loaded. Ctrl-C ends the process at once:
an exception could be wrapped by what is being imported, or surface in a callback of Python or of the engine, where it
is only printed and lost. Who has something to finish (a running machine, a prompt) takes Ctrl-C itself, for as long as
it needs to: `ctrl_c` in `commands/building.py`.
"""

import _signal  # type: ignore[import-not-found]    # not `signal`, which loads `enum`: another 5 ms without a handler
import gc
import os
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Load the program and run it; the exit code."""
    try:
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:    # else Ctrl-C is to be ignored
            _signal.signal(_signal.SIGINT, leave)
        from hv.cli import main as program

        code = program()
        gc.freeze()     # the system takes it all back: to look for cycles in it would cost each command 25 ms
        return code
    except KeyboardInterrupt:       # before the first line
        leave()
        return INTERRUPTED


def leave(number: int = 0, frame: FrameType | None = None) -> None:
    """Nothing is left to finish: say so in a line, and go."""
    try:
        os.write(2, b"\nhv: interrupted\n" if os.isatty(2) else b"hv: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
