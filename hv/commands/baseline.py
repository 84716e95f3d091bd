"""Unicorn as it comes, for `hv bench` to compare with: the same machine code without hooks, counting or guest mode.

Paging is on, with data pages no-execute: without that Unicorn takes its slow way at each store, and we would look good.

The only file outside `machine/` that imports the engine: a baseline that went through our own layer would be none.
"""

from __future__ import annotations

import struct
from time import process_time

from unicorn import UC_ARCH_X86, UC_HOOK_INSN, UC_MODE_64, UC_PROT_ALL, UC_PROT_READ, UC_PROT_WRITE, Uc
from unicorn.x86_const import (
    UC_X86_INS_CPUID,
    UC_X86_REG_CR0,
    UC_X86_REG_CR3,
    UC_X86_REG_CR4,
    UC_X86_REG_MSR,
    UC_X86_REG_RCX,
    UC_X86_REG_RSP,
)

from hv.commands.workloads import CODE, DATA, DATA_BYTES, bare
from hv.spec.msrs import Msr
from hv.spec.x86 import Cr0, Cr4, Efer

TABLES = 0x1000                     # PML4, PDPT, PD
_LARGE, _NO_EXECUTE = 0x83, 1 << 63


def paged_engine() -> Uc:
    """A bare engine with the first 64 MiB mapped one to one, no-execute above 2 MiB."""
    engine = Uc(UC_ARCH_X86, UC_MODE_64)
    engine.mem_map(TABLES, 0x3000, UC_PROT_READ | UC_PROT_WRITE)
    directory = [n << 21 | _LARGE | (_NO_EXECUTE if n else 0) for n in range(32)]
    for page, entries in enumerate(([TABLES + 0x1003], [TABLES + 0x2003], directory)):
        engine.mem_write(TABLES + 0x1000 * page, struct.pack(f"<{len(entries)}Q", *entries))
    efer = engine.reg_read(UC_X86_REG_MSR, Msr.EFER)
    engine.reg_write(UC_X86_REG_MSR, (Msr.EFER, efer | Efer.NXE | Efer.LME))
    engine.reg_write(UC_X86_REG_CR4, engine.reg_read(UC_X86_REG_CR4) | Cr4.PAE)
    engine.reg_write(UC_X86_REG_CR3, TABLES)
    engine.reg_write(UC_X86_REG_CR0, engine.reg_read(UC_X86_REG_CR0) | Cr0.PG | Cr0.PE)
    return engine


def seconds(loop: str, count: int, cpuid_hook: bool = False) -> float:
    """CPU seconds that Unicorn takes for *loop* with RCX = *count*; *cpuid_hook* adds an empty hook on CPUID."""
    code = bare(loop)
    engine = paged_engine()
    engine.mem_map(CODE, 0x10000, UC_PROT_ALL)
    engine.mem_map(DATA, DATA_BYTES, UC_PROT_READ | UC_PROT_WRITE)
    engine.mem_write(CODE, code)
    engine.reg_write(UC_X86_REG_RSP, CODE + 0x8000)
    engine.reg_write(UC_X86_REG_RCX, count)
    if cpuid_hook:
        engine.hook_add(UC_HOOK_INSN, lambda uc, user: 1, None, 1, 0, UC_X86_INS_CPUID)
    start = process_time()
    engine.emu_start(CODE, CODE + len(code) - 1)
    return process_time() - start
