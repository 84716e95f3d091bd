"""A hypervisor in machine code that nobody meant: random VMX instructions, and a VMCS region that is overwritten.

`python -m tests.vmx.random_root --first 0 --count 1000` plays seeds, each twice. Between VMCLEAR and VMPTRLD the region
gets random bytes; the instructions have random operands, from every mode. Nothing may raise a Python error or hang.
"""

from __future__ import annotations

import random
import sys
from hashlib import sha256

from hv.spec.vmcs import NO_VMCS, VmcsField
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.capabilities import PROCESSOR, REVISION_ID
from hv.vmx.exit import VmExit
from hv.vmx.fields import existing_fields
from hv.vmx.root_operation.operation import VmxMode
from tests.machine.engine_box import CODE
from tests.played_twice import main
from tests.vmx.random_vmcs import code
from tests.vmx.root_box import (
    ENTER,
    FAILED,
    GUEST,
    HANDLER,
    HOST,
    LAUNCH,
    OTHER_VMCS,
    POINTERS,
    VMCS,
    VMXON,
    RootBox,
)

F = VmcsField
_FIELDS = sorted(existing_fields(PROCESSOR))
_MOST_EXITS = 60
_VMX = tuple(bytes.fromhex(text) for text in (
    "660fc733", "660fc77308", "0fc733", "0fc77308", "0fc77310", "0fc73b", "f30fc733", "0f01c1", "0f01c2", "0f01c3",
    "0f01c4", "0f7803", "0f7903", "0f78c1", "0f79c1", "660f388003", "660f388103", "0f01d4", "660fc73500000000",
    "0f7806", "0f7907", "660f388006", "0f22e0", "0f20e0", "0f30", "0f32", "8ed0", "0fa2", "f4"))


class AnyRootBox(RootBox):
    """Where the box cannot do an instruction of the hypervisor's (CPUID), it stops."""

    def others(self, exit: VmExit | None) -> None:
        self.stopped = exit is not None


class Scene:
    """One play: `run` gives what was seen."""

    def __init__(self, box: AnyRootBox, seed: int) -> None:
        self.box, self.rng = box, random.Random(seed)

    def run(self) -> list[object]:
        rng, box = self.rng, self.box
        for _ in range(rng.choice((0, 0, 1, 3))):
            field = rng.choice(_FIELDS)
            flipped = box.fields.get(field, 0) ^ 1 << rng.randrange(64)
            box.fields[field] = rng.choice((0, 1, flipped, rng.getrandbits(64)))
        self._put(GUEST, code(rng, 30)), self._put(HOST, self._instructions(20))
        if box.host_bits == 64:
            handler = rng.choice((HANDLER, HANDLER, "hlt"))
            box.start(rng.choice((LAUNCH, LAUNCH, ENTER + FAILED)), code(rng, 30), handler)
        else:
            box.in_root()
            box.start("hlt", code(rng, 30))
        for _ in range(6):
            rng.choice((self._damage_region, self._instructions_again, self._registers, self._pointer))()
            self._go()
        memory = sha256(box.memory.read(0, box.memory.size)).hexdigest()
        state = box.cpu.state
        return [*((exit.reason, exit.qualification, exit.instruction_length) for exit in box.exits), box.operation.mode,
                state.rip, state.rflags, box.clock.tsc, memory]

    def _go(self) -> None:
        box = self.box
        if len(box.exits) < _MOST_EXITS and box.operation.mode is not VmxMode.ABORTED:
            box.resume(20_000)
        box.operation.inspect(), box.cpu.vmcs.inspect()

    def _put(self, where: int, data: bytes) -> None:
        self.box.memory.write(where, data[:PAGE_SIZE])

    def _instructions(self, count: int) -> bytes:
        rng = self.rng
        prefix = (b"", b"", b"", b"\x48", b"\x66", b"\x67", b"\xf3", b"\x65", b"\x36")
        return b"".join(rng.choice(prefix) + rng.choice(_VMX) for _ in range(count))

    def _instructions_again(self) -> None:
        """More instructions, where the processor is."""
        state = self.box.cpu.state
        at = state.linear_rip & 0xFFFFF
        self._put(at if 0x8000 < at < 0x18000 else CODE, self._instructions(8))
        self.box.cpu.state.rip = state.rip if 0x8000 < at < 0x18000 else CODE

    def _registers(self) -> None:
        rng, state = self.rng, self.box.cpu.state
        for name in ("rax", "rcx", "rdi"):
            setattr(state, name, rng.choice((*_FIELDS, 0, 1, 2, 3, 0x3A, 0x480, 1 << 16, rng.getrandbits(64))))
        state.rbx, state.rsi = (rng.choice((POINTERS, POINTERS + rng.randrange(64), VMCS, 0x3FFFFC, 1 << 47,
                                            rng.getrandbits(64))) for _ in range(2))

    def _pointer(self) -> None:
        rng = self.rng
        self.box.memory.write_u64(POINTERS + 8 * rng.randrange(3), rng.choice((
            VMXON, VMCS, OTHER_VMCS, VMCS + 8, 0x400000, NO_VMCS, 0x3FF000, 0x20000, rng.getrandbits(64))))

    def _damage_region(self) -> None:
        """VMCLEAR, any bytes, VMPTRLD, as a hypervisor in root operation does."""
        box, rng = self.box, self.rng
        if box.operation.mode is not VmxMode.ROOT or box.operation.vmxon_pointer == VMCS:
            return
        box.operation.vmclear(VMCS)
        for _ in range(rng.choice((1, 3, 30))):
            size = rng.choice((1, 4, 8, 100))
            box.memory.write(VMCS + rng.randrange(8, PAGE_SIZE - size), rng.randbytes(size))
        box.memory.write_u32(VMCS, REVISION_ID)
        box.operation.vmptrld(VMCS)
        enter = rng.choice((b"\x0f\x01\xc2", b"\x0f\x01\xc3", b"\x0f\x01\xc2\x0f\x01\xc3"))
        self._put(CODE, enter + self._instructions(4))
        if box.cpu.state.in_long_mode:
            box.cpu.state.rip = CODE


def play(seed: int) -> list[object]:
    """What is seen in the play of *seed*."""
    rng = random.Random(seed)
    bits, user = rng.choice((64, 64, 64, 32)), rng.random() < 0.1
    return Scene(AnyRootBox(bits, user), seed).run()


if __name__ == "__main__":
    sys.exit(main(play, __doc__))
