"""The prompt on a terminal, by prompt_toolkit: what was typed before, what may follow, and Python over several lines.

Tab completes. Enter carries out what is complete, and begins another line of Python that is not. An empty line repeats
a step. Ctrl-C abandons what is typed, Ctrl-D on an empty line leaves, Ctrl-R looks through the history.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from hv.debug.completion import complete
from hv.debug.history import HistoryFile
from hv.debug.session import Session

REPEATED = ("step", "s", "si", "next", "ni")     # what an empty line does again
_MORE = "... "


class Prompt:
    """Lines for *session*; what is typed is kept in *history*."""

    def __init__(self, session: Session, history: HistoryFile, **devices: Any) -> None:
        self._session, self._last = session, ""
        self._prompt: PromptSession[str] = PromptSession(
            history=_Remembered(history), completer=_Completer(session), complete_while_typing=False,
            multiline=True, prompt_continuation=_MORE, key_bindings=_keys(session), **devices)

    def read(self) -> str:
        """The next line, or lines; KeyboardInterrupt at Ctrl-C, EOFError at Ctrl-D."""
        line = self._prompt.prompt(self._session.prompt)
        if not line.strip() and self._last.split(" ")[0] in REPEATED:
            return self._last
        self._last = line.strip()
        return line


def _keys(session: Session) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None            # it takes the word that the menu shows
        elif buffer.document.is_cursor_at_the_end and session.is_incomplete(buffer.text):
            buffer.insert_text("\n" + indentation(buffer.document.current_line))
        else:
            buffer.validate_and_handle()

    return keys


def indentation(line: str) -> str:
    """What the line behind *line* begins with: the same, or four blanks more behind a colon; nothing ends a block."""
    if not line.strip():
        return ""
    blanks = re.match(r" *", line)
    return (blanks[0] if blanks else "") + ("    " if line.rstrip().endswith(":") else "")


class _Completer(Completer):
    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """The words that fit, with what they are beside them."""
        found = complete(self._session, document.text_before_cursor)
        for word in found.words:
            yield Completion(word.text, -found.typed, display_meta=word.meaning)


class _Remembered(History):
    """A `HistoryFile` as prompt_toolkit wants it."""

    def __init__(self, file: HistoryFile) -> None:
        super().__init__()
        self._file = file

    def load_history_strings(self) -> Iterable[str]:
        """Newest first."""
        return reversed(self._file.entries)

    def store_string(self, string: str) -> None:
        """Keep what was typed."""
        self._file.add(string)
