"""The machine code that ships is what its listings say, and its frames are where it looks for them."""

from __future__ import annotations

import ctypes

import keystone
import pytest
from unicorn import x86_const

from hv.machine import stubs

PAIRS = {
    "block": (stubs.BLOCK_SOURCE.format(eflags=x86_const.UC_X86_REG_EFLAGS), stubs._BLOCK),
    "exit": (stubs.EXIT_SOURCE, stubs._EXIT), "in": (stubs.IN_SOURCE, stubs._IN), "out": (stubs.OUT_SOURCE, stubs._OUT),
    "syscall": (stubs.SYSCALL_SOURCE, stubs._SYSCALL), "sysenter": (stubs.SYSENTER_SOURCE, stubs._SYSENTER),
    "count": (stubs.COUNT_SOURCE, stubs._COUNT),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_bytes_are_those_of_the_listing(name):
    source, code = PAIRS[name]
    assembled, _ = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64).asm(source)
    assert bytes(assembled).hex() == code.hex()


@pytest.mark.parametrize(("frame", "field", "offset"), [
    (stubs.WorkCounter, "done", 0), (stubs.WorkCounter, "limit", 8), (stubs.WorkCounter, "deadline", 16),
    (stubs.WorkCounter, "window", 24), (stubs.WorkCounter, "stop", 32), (stubs.WorkCounter, "reg_read", 40),
    (stubs.WorkCounter, "flags", 48), (stubs.WorkCounter, "skip", 56), (stubs.WorkCounter, "block", 64),
    (stubs.ExitFrame, "context", 0),
    (stubs.ExitFrame, "save", 8), (stubs.ExitFrame, "restore", 16), (stubs.ExitFrame, "handler", 24),
    (stubs.ExitFrame, "fetch", 32), (stubs.ExitFrame, "fetched", 40), (stubs.ExitFrame, "code", 48),
    (stubs.ExitFrame, "rip_offset", 64), (stubs.ExitFrame, "cs_offset", 72), (stubs.InstructionFrame, "kind", 0),
    (stubs.InstructionFrame, "port", 8), (stubs.InstructionFrame, "size", 12), (stubs.InstructionFrame, "value", 16),
    (stubs.InstructionFrame, "rcx", 24), (stubs.InstructionFrame, "reg_read", 32), (stubs.InstructionFrame, "rcx_id",
                                                                                    40),
    (stubs.InstructionFrame, "msr_id", 48), (stubs.InstructionFrame, "msr", 56)])
def test_a_field_is_where_the_code_looks_for_it(frame, field, offset):
    assert getattr(frame, field).offset == offset


def block(counter: stubs.WorkCounter, size: int) -> bool:
    """Call the block routine; True when it stopped the engine."""
    stopped = []
    stop = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda uc: stopped.append(uc) or 0)
    counter.stop = ctypes.cast(stop, ctypes.c_void_p).value
    routine = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)(
        stubs.routines().block)
    routine(0x1234, 0, size, ctypes.addressof(counter))
    return bool(stopped)


needs_native = pytest.mark.skipif(not stubs.available(), reason="this host cannot run the routines")


@needs_native
def test_a_block_within_the_limit_is_counted():
    counter = stubs.WorkCounter(done=10, limit=100, deadline=100)
    assert not block(counter, 89)
    assert counter.done == 99


@needs_native
@pytest.mark.parametrize("size", [90, 91, 0xFFFFFFFF])
def test_a_block_that_would_reach_the_limit_is_not_counted_and_stops(size):
    counter = stubs.WorkCounter(done=10, limit=100, deadline=100)
    assert block(counter, size)
    assert counter.done == 10


@needs_native
def test_a_block_that_may_be_skipped_is_counted_beyond_the_limit():
    counter = stubs.WorkCounter(done=10, limit=0, deadline=5, skip=1)
    assert not block(counter, 10)
    assert (counter.done, counter.skip) == (20, 0)
    assert block(counter, 10)


@needs_native
@pytest.mark.parametrize(("flags", "stops"), [(0x202, True), (0x002, False), (0xFDFF, False)])
def test_in_window_mode_a_block_stops_when_interrupts_are_enabled(flags, stops):
    def read(_uc: int, register: int, value: int) -> int:
        assert register == x86_const.UC_X86_REG_EFLAGS
        ctypes.c_uint64.from_address(value).value = flags
        return 0

    reader = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(read)
    counter = stubs.WorkCounter(done=10, limit=0, deadline=100, window=1, reg_read=ctypes.cast(reader,
                                                                                               ctypes.c_void_p).value)
    assert block(counter, 5) is stops
    assert counter.done == (10 if stops else 15)


def test_the_native_way_can_be_refused(monkeypatch):
    monkeypatch.setenv("HVLAB_NO_NATIVE", "1")
    assert not stubs.available()
