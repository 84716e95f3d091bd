"""Landlock: this process gives up every file but those it names, the network, and signals to others.

Linux, Documentation/userspace-api/landlock.rst. No rights are needed; what it gave up a process never gets back, nor
do its children. A kernel without Landlock (before 5.13, or switched off) has version 0.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446      # the same numbers on all architectures
_PATH_BENEATH = 1
_O_PATH = 0o10000000

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, TRUNCATE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 14
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE
_OF_A_FILE = WRITE_FILE | READ_FILE | TRUNCATE

_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}                  # version -> how many file rights it knows; later: 16
_TCP, _SCOPES = 0b11, 0b11                                      # bind and connect; abstract sockets and signals


def _system_call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def version() -> int:
    """The version of Landlock's interface that this kernel has; 0 without it."""
    try:
        return _system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except (OSError, AttributeError):
        return 0


def confine(readable: Iterable[str], writable: Iterable[str]) -> int:
    """Leave this thread and its children *readable* and *writable* (files, or folders with all in them), and no more.

    Answers the version in force, 0 when there is none. PR_SET_NO_NEW_PRIVS must be set.
    """
    known = version()
    if not known:
        return 0
    handled = (1 << _FS_BITS.get(known, 16)) - 1
    attributes = struct.pack("=QQQ", handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    rules = _system_call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for path in readable:
            _allow(rules, path, READ & handled)
        for path in writable:
            _allow(rules, path, WRITE & handled)
        _system_call(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint(0))
    finally:
        os.close(rules)
    return known


def _allow(rules: int, path: str, rights: int) -> None:
    place = os.open(path, _O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if os.path.isdir(path) else rights & _OF_A_FILE
        rule = struct.pack("=Qi", allowed, place)
        _system_call(_ADD_RULE, ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(place)
