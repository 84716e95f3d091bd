"""Machine code that the engine calls from inside a run, so that a block of guest code costs nanoseconds, not Python.

The routines, for x86-64 hosts with the System V calling convention (Linux, Intel Macs):

* `block`: called at the head of every block with its size in bytes. Adds it to the work counter, and stops the engine
  before the block when the counter would reach its limit. In window mode it also reads RFLAGS and stops as soon as
  interrupts are enabled.
* `exit`: called for every intercept. Saves the context, fetches the instruction's bytes with the guest's own eyes,
  calls the Python handler, and restores the (changed) context.
* `instruction`: called for IN, OUT, SYSCALL, SYSENTER, which the engine cannot intercept. It notes what was asked and
  reads an intercepted MSR through the API, which leaves the instruction undone by the engine's own long jump; what
  follows is an ordinary intercept with all state live. No Python frame is on the stack that the jump abandons.

And `count`, called at each instruction while `countdown.py` wants it: stops the engine before the last one counted.

Elsewhere `available()` is False and `hooks.py` does the same in Python: slower, with the same counts. The bytes below
are assembled from the listings beside them; `tests/machine/test_stubs.py` assembles them again and compares.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys


class WorkCounter(ctypes.Structure):
    """What the block routine shares with the clock and the run loop. Work is counted in bytes of code (= TSC ticks)."""

    _fields_ = [
        ("done", ctypes.c_uint64),          # +0   work so far: the machine's clock
        ("limit", ctypes.c_uint64),         # +8   the fast path compares with this; 0 sends every block the slow way
        ("deadline", ctypes.c_uint64),      # +16  the real limit
        ("window", ctypes.c_uint64),        # +24  1: stop when RFLAGS.IF is set
        ("stop", ctypes.c_void_p),          # +32  uc_emu_stop
        ("reg_read", ctypes.c_void_p),      # +40  uc_reg_read
        ("flags", ctypes.c_uint64),         # +48  where RFLAGS is read to
        ("skip", ctypes.c_uint64),          # +56  let so many blocks pass before any check
        ("block", ctypes.c_uint64),         # +64  linear address of the block that runs
        ("until", ctypes.c_uint64),         # +72  where the run ends, however often it is interrupted before
    ]

    @property
    def words(self) -> memoryview:
        """The fields as 64-bit words in place; word 0 is `done`. Cheaper than attributes, for the exit path."""
        return memoryview(self).cast("B").cast("Q")


class ExitFrame(ctypes.Structure):
    """What the exit routine shares with the engine. Offsets are used by the machine code."""

    _fields_ = [
        ("context", ctypes.c_void_p),       # +0   the running VP's context
        ("save", ctypes.c_void_p),          # +8   uc_context_save
        ("restore", ctypes.c_void_p),       # +16  uc_context_restore
        ("handler", ctypes.c_void_p),       # +24  int (*)(uc, number, frame)
        ("fetch", ctypes.c_void_p),         # +32  uc_vmem_read
        ("fetched", ctypes.c_uint64),       # +40  how many bytes of code are in `code`; 0 when none could be read
        ("code", ctypes.c_uint8 * 16),      # +48
        ("rip_offset", ctypes.c_uint64),    # +64  where RIP and the CS base are in a context
        ("cs_offset", ctypes.c_uint64),     # +72
    ]


class InstructionFrame(ctypes.Structure):
    """What the instruction routine leaves behind: which instruction, and the registers the long jump destroys."""

    _fields_ = [
        ("kind", ctypes.c_uint64),          # +0   see KIND_*; 0 = nothing waits
        ("port", ctypes.c_uint32),          # +8
        ("size", ctypes.c_uint32),          # +12  bytes
        ("value", ctypes.c_uint64),         # +16  what OUT writes
        ("rcx", ctypes.c_uint64),           # +24  RCX before the jump (the MSR read overwrites it)
        ("reg_read", ctypes.c_void_p),      # +32  uc_reg_read
        ("rcx_id", ctypes.c_uint64),        # +40  the API's number of RCX
        ("msr_id", ctypes.c_uint64),        # +48  the API's number of "an MSR"
        ("msr", ctypes.c_uint64 * 2),       # +56  index and value; an index that always exits
    ]


class Countdown(ctypes.Structure):
    """What the count routine shares with `countdown.py`."""

    _fields_ = [
        ("left", ctypes.c_uint64),          # +0   instructions until the engine stops, before the last of them
        ("stop", ctypes.c_void_p),          # +8   uc_emu_stop
    ]


KIND_IN, KIND_OUT, KIND_SYSCALL, KIND_SYSENTER = 1, 2, 3, 4

# The listings take Keystone's Intel syntax.
BLOCK_SOURCE = """
    mov [rcx+64], rsi
    mov edx, edx
    add rdx, [rcx]
    cmp rdx, [rcx+8]
    jae slow
    mov [rcx], rdx
    ret
slow:
    cmp qword ptr [rcx+56], 0
    je checks
    dec qword ptr [rcx+56]
    mov [rcx], rdx
    ret
checks:
    cmp rdx, [rcx+16]
    jae stop
    cmp qword ptr [rcx+24], 0
    je stop
    push rbx
    push r12
    push r13
    mov rbx, rcx
    mov r12, rdi
    mov r13, rdx
    mov esi, {eflags}
    lea rdx, [rcx+48]
    call [rcx+40]
    mov rdi, r12
    mov rcx, rbx
    mov rdx, r13
    pop r13
    pop r12
    pop rbx
    test dword ptr [rcx+48], 0x200
    jne stop
    mov [rcx], rdx
    ret
stop:
    jmp [rcx+32]
"""

EXIT_SOURCE = """
    push rbx
    push r12
    push r13
    mov rbx, rdi
    mov r12, rdx
    mov r13d, esi
    mov rsi, [r12]
    call [r12+8]
    mov qword ptr [r12+40], 0
    mov qword ptr [r12+48], 0
    cmp r13d, 0x140
    jb fetch
    cmp r13d, 0x146
    je fetch
    cmp r13d, 0x160
    jb handle
    cmp r13d, 0x500
    je handle
fetch:
    mov rax, [r12]
    mov rcx, [r12+64]
    mov rsi, [rax+rcx]
    mov rcx, [r12+72]
    add rsi, [rax+rcx]
    mov r8d, esi
    neg r8d
    and r8d, 0xFFF
    jz whole
    cmp r8d, 15
    jbe read
whole:
    mov r8d, 15
read:
    mov [r12+40], r8
    mov rdi, rbx
    mov edx, 4
    lea rcx, [r12+48]
    call [r12+32]
    test eax, eax
    je handle
    mov qword ptr [r12+40], 0
handle:
    mov rdi, rbx
    mov esi, r13d
    mov rdx, r12
    call [r12+24]
    test eax, eax
    je done
    mov rdi, rbx
    mov rsi, [r12]
    call [r12+16]
done:
    pop r13
    pop r12
    pop rbx
    ret
"""

_LEAVE = """
    push rbx
    push r12
    push r13
    mov rbx, rdi
    mov r12, {frame}
    mov qword ptr [r12], {kind}
{note}
    mov rdi, rbx
    mov rsi, [r12+40]
    lea rdx, [r12+24]
    call [r12+32]
    mov rdi, rbx
    mov rsi, [r12+48]
    lea rdx, [r12+56]
    call [r12+32]
    pop r13
    pop r12
    pop rbx
    ret
"""
IN_SOURCE = _LEAVE.format(frame="rcx", kind=KIND_IN, note="    mov [r12+8], esi\n    mov [r12+12], edx")
OUT_SOURCE = _LEAVE.format(frame="r8", kind=KIND_OUT,
                           note="    mov [r12+8], esi\n    mov [r12+12], edx\n    mov [r12+16], rcx")
SYSCALL_SOURCE = _LEAVE.format(frame="rsi", kind=KIND_SYSCALL, note="")
SYSENTER_SOURCE = _LEAVE.format(frame="rsi", kind=KIND_SYSENTER, note="")
COUNT_SOURCE = """
    dec qword ptr [rcx]
    jz stop
    ret
stop:
    jmp [rcx+8]
"""
_BLOCK = bytes.fromhex(
    "4889714089d2480311483b51087304488911c34883793800740848ff4938488911c3483b5110733c48837918007435534154"
    "41554889cb4989fc4989d5be19000000488d5130ff51284c89e74889d94c89ea415d415c5bf74130000200007504488911c3"
    "ff6120"
)
_EXIT = bytes.fromhex(
    "53415441554889fb4989d44189f5498b342441ff54240849c74424280000000049c7442430000000004181fd40010000721b"
    "4181fd4601000074124181fd60010000725e4181fd000500007455498b0424498b4c2440488b3408498b4c24484803340841"
    "89f041f7d84181e0ff0f000074064183f80f760641b80f0000004d894424284889dfba04000000498d4c243041ff54242085"
    "c0740949c7442428000000004889df4489ee4c89e241ff54241885c0740c4889df498b342441ff542410415d415c5bc3"
)
_IN = bytes.fromhex(
    "53415441554889fb4989cc49c70424010000004189742408418954240c4889df498b742428498d54241841ff5424204889df"
    "498b742430498d54243841ff542420415d415c5bc3"
)
_OUT = bytes.fromhex(
    "53415441554889fb4d89c449c70424020000004189742408418954240c49894c24104889df498b742428498d54241841ff54"
    "24204889df498b742430498d54243841ff542420415d415c5bc3"
)
_SYSCALL = bytes.fromhex(
    "53415441554889fb4989f449c70424030000004889df498b742428498d54241841ff5424204889df498b742430498d542438"
    "41ff542420415d415c5bc3"
)
_SYSENTER = bytes.fromhex(
    "53415441554889fb4989f449c70424040000004889df498b742428498d54241841ff5424204889df498b742430498d542438"
    "41ff542420415d415c5bc3"
)
_COUNT = bytes.fromhex("48ff097401c3ff6108")


class Routines:
    """The routines in executable memory: their addresses. Made once per process."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        addresses = []
        offset = 0
        for code in (_BLOCK, _EXIT, _IN, _OUT, _SYSCALL, _SYSENTER, _COUNT):
            self._page[offset : offset + len(code)] = code
            addresses.append(base + offset)
            offset += len(code) + 15 & ~15
        (self.block, self.exit, self.read_port, self.write_port, self.syscall, self.sysenter,
         self.count) = addresses


_routines: list[Routines] = []


def available() -> bool:
    """True where the machine code above runs. HVLAB_NO_NATIVE=1 forces the Python way, for tests and doubts."""
    system_v = sys.platform.startswith(("linux", "darwin")) and os.uname().machine.lower() in ("x86_64", "amd64")
    return system_v and os.environ.get("HVLAB_NO_NATIVE") != "1"


def routines() -> Routines:
    """The routines, placed at the first call."""
    if not _routines:
        _routines.append(Routines())
    return _routines[0]
