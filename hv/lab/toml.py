"""Plain data as TOML, which `tomllib` can only read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def dumps(data: Mapping[str, Any]) -> str:
    """*data* (str, int, bool, lists and tables of them; no None) as TOML 1.0; reading it gives *data* back."""
    return "\n".join(_table(data, [])).strip("\n") + "\n"


def _table(data: Mapping[str, Any], path: list[str]) -> Iterator[str]:
    """The lines of one table: its own values first, for they cannot stand behind those of a table in it."""
    for key, value in data.items():
        if not _is_tables(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in data.items():
        inner = [*path, _key(key)]
        if isinstance(value, Mapping):
            yield from ("", f"[{'.'.join(inner)}]", *_table(value, inner))
        elif _is_tables(value):
            for one in value:
                yield from ("", f"[[{'.'.join(inner)}]]", *_table(one, inner))


def _is_tables(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "a").replace("-", "a").isalnum()
    return key if bare else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"{type(value).__name__} is no value of TOML here")
