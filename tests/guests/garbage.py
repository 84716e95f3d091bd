"""Guests that nobody wrote: random bytes, random instructions and damaged programs, in every mode and privilege.

`python -m tests.guests.garbage --first 0 --count 20000` runs a campaign; with `--python-hooks` each guest's second run
is without the native routines, and must be the same run unless it runs long blocks. Each batch has a process of its
own, so that an engine which ends its process is seen, and named by the seed of the guest that did it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import pytest

from hv.image.library import guest_names, guests_folder
from hv.image.load import load
from hv.image.model import Image
from hv.machine import engine
from hv.machine.hooks import PythonHooks
from hv.machine.registers import Segment
from hv.platform import Machine, VirtualMachine
from hv.root.boot import LOW_DIRECTORY, PDPT, PML4
from hv.spec.x86 import Cr0, Cr4, Efer
from tests.guest_runner import GuestRun, image_of, memory_of, observe
from tests.vmx.random_vmcs import code

BUDGET = 300_000
ENDS = {"halt", "shutdown", "triple-fault", "budget", "error"}
MEMORY_MIB = 1
IDT, LDT = 0x60000, 0x61000
FIRST_OF_VMX = 1_000_000        # seeds below it keep the guests that campaigns have named
# Switch on, a timer that goes on and on, self-IPI, NMI to itself, INIT and SIPI to the others.
_APIC_WRITES = ((0xF0, 0x1FF), (0x320, 0x20041), (0x3E0, 0xB), (0x380, 2000), (0x300, 0x40052), (0x300, 0x40400),
                (0x300, 0xC4500), (0x300, 0xC4610))
_GENERAL = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")

# Opcodes that change how the processor works; random bytes alone seldom hit them.
_SYSTEM = tuple(bytes.fromhex(code) for code in (
    "0f00", "0f01", "0f02", "0f03", "0f05", "0f06", "0f07", "0f08", "0f09", "0f0b", "0f20", "0f21", "0f22", "0f23",
    "0f30",
    "0f31", "0f32", "0f33", "0f34", "0f35", "0fa0", "0fa1", "0fa2", "0fa8", "0fa9", "0faa", "0fae", "0fb2", "0fb4",
    "0fb5",
    "0fc7", "07", "17", "1f", "8e", "8c", "8f", "9a", "ea", "ca", "cb", "cf", "48cf", "cc", "cd", "ce", "9c", "9d",
    "fa",
    "fb", "f4", "6c", "6d", "6e", "6f", "e4", "e5", "e6", "e7", "ec", "ed", "ee", "ef", "ff", "c4", "c5", "62", "63",
    "f390",
    "f3a4", "f3a5", "f3aa", "f3ab", "f2ae", "f3a6", "c8", "c9", "60", "61", "d9", "dd", "db", "df", "9b", "66", "67",
    "f0",
    "0f0fc0", "0f01c1", "0f01d8", "0f01d9", "0f01da", "0f01db", "0f01dc", "0f01dd", "0f01de", "0f01df", "0f01f8",
    "0f01f9",
    "0f01c8", "0f01c9", "0f01ca", "0f01cb", "0f01d0", "0f01d1", "0f78", "0f79", "660f38", "f30fb8", "f30fbc", "0f77",
    "0fc30a", "0f18", "0f0d", "c5f8", "8fe8", "0f3a", "0f38", "f30fae", "660fae", "f20fd0", "488e", "410f22", "440f22",
    "f30fc7f0", "0fc7f0", "0fc7f8", "0f22c0", "0f22d8", "0f22e0", "0f0100", "0f0108", "0f0110", "0f0118", "0f0138"))


@dataclass(frozen=True)
class GarbageGuest:
    """A program, and what its processor looks like when it starts."""

    seed: int
    image: Image
    registers: dict[str, Any]
    patches: dict[int, bytes] = dataclass_field(default_factory=dict)     # written before it starts
    vps: int = 1


def _word(rng: random.Random) -> int:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.getrandbits(64)
    if kind == 1:
        return rng.getrandbits(16)
    if kind == 2:
        return rng.choice((0, 1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFFFFFF, 0x800000000000, 0xFFFF800000000000,
                           0x80000000,
                           0xC0000080, 0x1B, 0x40000000, 0xFEE00000, 0xFEE00300, 0xC0000082, 0xFFFFF, 0x100000, 0x3F8,
                           0x604))
    return rng.choice((0x500, 0x7C00, 0x10000, 0x10000, 0x60000, 0x70000, 0x71000, 0x80000,
                       0x90000)) + rng.getrandbits(12)


def _instructions(rng: random.Random, size: int) -> bytes:
    code = b""
    while len(code) < size:
        if rng.random() < 0.5:
            code += rng.choice(_SYSTEM) + rng.randbytes(rng.choice((0, 0, 1, 1, 2, 5)))
        elif rng.random() < 0.3:
            code += bytes((0xB8 + rng.randrange(8),)) + rng.choice((0, 0x10000, 0x71000, 0xC0000080, 0x20, 0x10033,
                                                                    0x620,
                                                                    rng.getrandbits(32))).to_bytes(4, "little")
        else:
            code += rng.randbytes(rng.randrange(1, 5))
    return code[:size]


def _code(rng: random.Random) -> bytes:
    size = rng.choice((16, 64, 256, 1024))
    return rng.randbytes(size) if rng.random() < 0.25 else _instructions(rng, size)


@cache
def _real_guests() -> tuple[Image, ...]:
    folder = guests_folder()
    assert folder is not None
    return tuple(load(folder / f"{name}.asm") for name in guest_names() if "/" not in name)


def _damaged(rng: random.Random) -> Image:
    image = rng.choice(_real_guests())
    segments = []
    for segment in image.segments:
        data = bytearray(segment.data)
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            if data:
                data[rng.randrange(len(data))] = rng.getrandbits(8)
        segments.append(type(segment)(segment.gpa, bytes(data), segment.writable, segment.executable))
    return Image(image.kind, segments, image.entry, image.bits)


def make(seed: int) -> GarbageGuest:
    """The guest of a seed: always the same one."""
    rng = random.Random(seed)
    if rng.random() < 0.15:
        return GarbageGuest(seed, _damaged(rng), {})
    bits = rng.choice((16, 32, 64, 64))
    image = image_of(_code(rng), bits)
    registers: dict[str,
                    Any] = {name: _word(rng) & (0xFFFFFFFFFFFFFFFF if bits == 64 else 0xFFFFFFFF) for name in _GENERAL}
    registers["rflags"] = 2 | rng.getrandbits(22) & (0x2_4DD5 | rng.choice((0, 0x200)) | rng.choice((0, 0x100, 0x3000)))
    patches: dict[int, bytes] = {}
    if bits == 16:
        registers["rflags"] &= ~0x2_0000
        if rng.random() < 0.5:
            patches[0] = b"".join(_real_vector(rng) for _ in range(256))
    else:
        _protected(rng, bits, registers, patches)
    if seed >= FIRST_OF_VMX and rng.random() < 0.5:
        return _of_vmx(rng, GarbageGuest(seed, image, registers, patches))
    return GarbageGuest(seed, image, registers, patches)


def _of_vmx(rng: random.Random, guest: GarbageGuest) -> GarbageGuest:
    """Code that VMX has to do with, operands in the APIC's page, and a second processor, which starts at this code."""
    bits, vps = guest.image.bits, rng.choice((1, 1, 2))
    source = code(rng, rng.choice((10, 40, 100)))
    if bits != 16:
        source = b"".join(_store(0xFEE0_0000 + offset, value) for offset, value in _APIC_WRITES
                          if rng.random() < 0.5 or (vps > 1 and offset == 0x300)) + source
        for name in ("rbx", "rsi", "rdi"):
            if rng.random() < 0.5:
                guest.registers[name] = 0xFEE0_0000 + rng.choice((0x80, 0xB0, 0x300, 0x20, 0xFFE, 0x82, 0x390, 0x100))
    return GarbageGuest(guest.seed, image_of(source, bits), guest.registers, guest.patches, vps)


def _store(address: int, value: int) -> bytes:
    """mov eax, address; mov dword ptr [rax], value."""
    return b"\xb8" + address.to_bytes(4, "little") + b"\xc7\x00" + value.to_bytes(4, "little")


def _real_vector(rng: random.Random) -> bytes:
    return (0x7C00 + rng.randrange(64)).to_bytes(2, "little") + b"\0\0"


def _protected(rng: random.Random, bits: int, registers: dict[str, Any], patches: dict[int, bytes]) -> None:
    """An IDT, a GDT with more in it, another privilege, other control registers: each of them sometimes."""
    user = rng.random() < 0.3
    if bits == 64 or rng.random() < 0.9:
        registers["rflags"] &= ~0x2_0000
    if rng.random() < 0.6:
        patches[IDT] = b"".join(_gate(rng, bits) for _ in range(256))
        registers["idtr"] = (IDT, 0xFFF if bits == 64 else 0x7FF)
    if rng.random() < 0.6:
        registers["gdt"] = [_descriptor(rng) for _ in range(4)]
    if user:
        registers["user"] = True
        patches |= {PML4: b"\x27", PDPT: b"\x27", LOW_DIRECTORY: b"\xe7"} if bits == 64 else {}
    if bits == 64:
        registers["cr4"] = int(Cr4.PAE | Cr4.OSFXSR) | rng.getrandbits(11) & 0x7CF
        registers["efer"] = int(Efer.LME | Efer.LMA) | rng.choice((0x800, 0x801))
        if rng.random() < 0.2:      # page-table entries that nobody checked
            patches[LOW_DIRECTORY + 8 * rng.randrange(1, 4)] = _word(rng).to_bytes(8, "little")
            patches[PDPT + 8] = _word(rng).to_bytes(8, "little")
    else:
        registers["cr4"] = rng.getrandbits(11) & 0x7FF
        if rng.random() < 0.3:      # 32-bit paging, or PAE, with tables of large pages
            registers["cr0"] = int(Cr0.PG | Cr0.PE | Cr0.ET) | rng.choice((0, 0x10000))
            if registers["cr4"] & 0x20:
                patches[0x71000] = b"".join((0x72001 + 0x1000 * n).to_bytes(8, "little") for n in range(4))
                patches[0x72000] = b"".join((n << 21 | 0xE7).to_bytes(8, "little") for n in range(512))
            else:
                registers["cr4"] |= 0x10
                patches[0x71000] = b"".join((n << 22 | 0xE7).to_bytes(4, "little") for n in range(1024))
            registers["cr3"] = 0x71000


def _gate(rng: random.Random, bits: int) -> bytes:
    offset = 0x10000 + rng.randrange(64)
    selector = rng.choice((0x08, 0x18)) if rng.random() < 0.1 else 0x08 if bits == 64 else 0x18
    kind = rng.choice((0x8E, 0x8F, 0xEE, 0xEF, rng.getrandbits(8) if rng.random() < 0.1 else 0x8E))
    ist = rng.choice((0, 0, 0, 1, 7))
    low = offset & 0xFFFF | selector << 16 | (ist if bits == 64 else 0) << 32 | kind << 40 | (offset >> 16) << 48
    return low.to_bytes(8, "little") + (bytes(8) if bits == 64 else b"")


def _descriptor(rng: random.Random) -> int:
    rights = rng.choice((0x9B, 0x93, 0xFB, 0xF3, 0x89, 0x8B, 0x82, 0x8C, 0xEC, 0x85, 0x81, rng.getrandbits(8)))
    flags = rng.choice((0xC, 0xA, 0x4, 0x0, 0x2, rng.getrandbits(4)))
    base, limit = _word(rng) & 0xFFFFFFFF, rng.choice((0xFFFFF, 0xFFFF, 0x67, rng.getrandbits(20)))
    low = limit & 0xFFFF | (base & 0xFFFFFF) << 16
    return low | rights << 40 | (limit >> 16) << 48 | flags << 52 | (base >> 24) << 56


def prepare(guest: GarbageGuest, machine: Machine, vm: VirtualMachine) -> None:
    """Put the processor into the guest's starting state."""
    state = vm.partition.vps[0].guest_regs      # without the bits of CR0 and CR4 that VMX operation fixes
    for gpa, data in guest.patches.items():
        vm.worker.write(gpa, data)
    for name, value in guest.registers.items():
        if name == "gdt":
            vm.worker.write(0x70030, b"".join(raw.to_bytes(8, "little") for raw in value))
            state.gdtr = type(state.gdtr)(0x70000, 0x2F + 8 * len(value))
        elif name == "user":
            for segment in ("ss", "ds", "es", "fs", "gs"):
                setattr(state, segment, Segment(0x33, 0, 0xFFFFFFFF, 0xC0F3))
            state.cs = Segment(0x2B, 0, 0xFFFFFFFF, 0xA0FB if guest.image.bits == 64 else 0xC0FB)
        elif name == "idtr":
            state.idtr = type(state.idtr)(*value)
        else:
            setattr(state, name, value)
    vm.partition.vps[0].vcpu.state_written = True


def run_garbage(guest: GarbageGuest, budget: int = BUDGET) -> GuestRun:
    """Run it beside a victim; AssertionError when it harmed the victim or ended in no known way."""
    machine = Machine(memory_mib=12)
    try:
        victim = machine.create_vm("victim", image_of(b"\xf4", 16, {0x8000: bytes(range(256)) * 64}), memory_mib=1)
        machine.run(until_tsc=10_000)
        before = memory_of(machine, victim)
        vm = machine.create_vm("garbage", guest.image, memory_mib=MEMORY_MIB, vps=guest.vps)
        prepare(guest, machine, vm)
        machine.run(until_tsc=machine.clock.tsc + budget)
        machine.end_budget()
        assert memory_of(machine, victim) == before, "the victim's memory changed"
        result = observe(machine, vm)
        assert result.ended in ENDS, f"it ended by {result.ended}"
        return result
    finally:
        machine.close()


# --- campaigns ---------------------------------------------------------------------------------------

LONG_BLOCK = 100        # bytes; the engine divides longer ones in other places when it counts instructions


class _NotingHooks(PythonHooks):
    """The routines in Python, which note the longest block of all guests."""

    longest = 0

    def _block(self, uc: int, address: int, size: int, user: int) -> None:
        _NotingHooks.longest = max(_NotingHooks.longest, size)
        super()._block(uc, address, size, user)


def run_by_python_hooks(guest: GarbageGuest, budget: int = BUDGET) -> tuple[GuestRun, bool]:
    """Run it as on hosts where the native routines cannot run; and whether the native run must be the same.

    Both count a block when it begins, so where blocks are divided differently, time differs by a part of a block.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HVLAB_NO_NATIVE", "1")
        patch.setattr(engine, "PythonHooks", _NotingHooks)
        _NotingHooks.longest = 0
        return run_garbage(guest, budget), _NotingHooks.longest < LONG_BLOCK


def differences(first: GuestRun, second: GuestRun) -> list[tuple[Any, Any]]:
    """What of two runs' fingerprints is not the same."""
    return [(a, b) for a, b in zip(first.fingerprint(), second.fingerprint(), strict=True) if a != b]


def _batch(first: int, count: int, report: Connection, twice: bool, hooks: bool) -> None:
    for seed in range(first, first + count):
        report.send(("start", seed))
        started = time.perf_counter()
        try:
            guest = make(seed)
            result = run_garbage(guest)
            if twice:
                again, comparable = run_by_python_hooks(guest) if hooks else (run_garbage(guest), True)
                if comparable and (found := differences(result, again)):
                    report.send(("different", seed, found))
            report.send(("end", seed, f"{result.ended}: {result.why[:60]}" if result.ended == "error" else result.ended,
                         time.perf_counter() - started))
        except BaseException as error:
            import traceback
            report.send(("exception", seed, "".join(traceback.format_exception(error)[-3:])))


def campaign(first: int, count: int, batch: int = 100, twice: bool = True, patience: float = 30.0,
             hooks: bool = False) -> int:
    """Run the guests of seeds *first* .. *first* + *count*; the number of those that misbehaved.

    Each runs *twice*, the second time without the native routines when *hooks* is set.
    """
    ends: dict[str, int] = {}
    bad = 0
    seed, slowest = first, (0.0, 0)
    context = multiprocessing.get_context("fork")
    while seed < first + count:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_batch, args=(seed, min(batch, first + count - seed), sender, twice, hooks))
        process.start()
        sender.close()
        current, hung = seed, False
        try:
            while True:
                if not receiver.poll(patience):
                    hung = True
                    break
                kind, current, *rest = receiver.recv()
                if kind == "end":
                    ends[rest[0]] = ends.get(rest[0], 0) + 1
                    slowest = max(slowest, (rest[1], current))
                elif kind != "start":
                    bad += 1
                    print(f"seed {current}: {kind}: {rest[0]}", flush=True)
        except EOFError:
            pass
        if hung:
            process.kill()
        process.join()
        if hung or process.exitcode:
            bad += 1
            print(f"seed {current}: {'hangs' if hung else f'ends the process: {process.exitcode}'}", flush=True)
        seed = current + 1
        if (seed - first) % 1000 < batch:
            print(f"{seed - first} guests, {bad} misbehaved", flush=True)
    print(f"{count} guests from seed {first}: {bad} misbehaved; slowest {slowest[0]:.2f} s (seed {slowest[1]})")
    for how, number in sorted(ends.items(), key=lambda item: -item[1])[:40]:
        print(f"  {number:6} {how}")
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--once", action="store_true", help="do not run each twice")
    parser.add_argument("--python-hooks", action="store_true", help="run each the second time without native routines")
    arguments = parser.parse_args()
    sys.exit(1 if campaign(arguments.first, arguments.count, twice=not arguments.once,
                           hooks=arguments.python_hooks) else 0)
