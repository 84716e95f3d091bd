"""Unicorn as it comes, for `hv bench` to compare with: the same machine code without paging, hooks or counting.

The only file outside `machine/` that imports the engine: a baseline that went through our own layer would be none.
"""

from __future__ import annotations

from time import perf_counter

from unicorn import UC_ARCH_X86, UC_HOOK_INSN, UC_MODE_64, UC_PROT_ALL, UC_PROT_READ, UC_PROT_WRITE, Uc
from unicorn.x86_const import UC_X86_INS_CPUID, UC_X86_REG_RCX, UC_X86_REG_RSP

from hv.commands.workloads import CODE, DATA, DATA_BYTES, bare


def seconds(loop: str, count: int, cpuid_hook: bool = False) -> float:
    """How long Unicorn takes for *loop* with RCX = *count*; *cpuid_hook* adds an empty hook on CPUID."""
    code = bare(loop)
    engine = Uc(UC_ARCH_X86, UC_MODE_64)
    engine.mem_map(CODE, 0x10000, UC_PROT_ALL)
    engine.mem_map(DATA, DATA_BYTES, UC_PROT_READ | UC_PROT_WRITE)
    engine.mem_write(CODE, code)
    engine.reg_write(UC_X86_REG_RSP, CODE + 0x8000)
    engine.reg_write(UC_X86_REG_RCX, count)
    if cpuid_hook:
        engine.hook_add(UC_HOOK_INSN, lambda uc, user: 1, None, 1, 0, UC_X86_INS_CPUID)
    start = perf_counter()
    engine.emu_start(CODE, CODE + len(code) - 1)
    return perf_counter() - start
