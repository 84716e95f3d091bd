"""The door of the program: `hv`, and `python -m hv`.

It loads next to nothing itself, since Ctrl-C may come while the rest is being loaded. Then it ends the process at once:
an exception could be caught by whatever is being imported, or surface in a callback, where it is only printed.
"""

import _signal  # type: ignore[import-not-found]    # not `signal`, which loads `enum`: another 5 ms without a handler
import os
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Load the program and run it; the exit code."""
    try:
        usual = _signal.getsignal(_signal.SIGINT)
        if usual is _signal.default_int_handler:        # else the program was started with Ctrl-C ignored
            _signal.signal(_signal.SIGINT, leave)
        from hv.cli import main as program

        _signal.signal(_signal.SIGINT, usual)
        return program()
    except KeyboardInterrupt:       # just before the first line, or just behind the last
        leave()
        return INTERRUPTED


def leave(number: int = 0, frame: FrameType | None = None) -> None:
    """Nothing was begun yet: say so in a line, and go."""
    try:
        os.write(2, b"\nhv: interrupted\n" if os.isatty(2) else b"hv: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
