"""The registers of a VP as its guest knows them: without the bits that VMX operation fixes in CR0 and CR4.

CR0.NE and CR4.VMXE are 1 while a guest runs, whatever it wrote. The guest/host masks give them to the hypervisor, and
the read shadows keep what the guest believes; SDM "Guest/Host Masks and Read Shadows for CR0 and CR4". Whoever shows a
register, to root by hypercall or to a person, reads it here; who needs the processor's own has `vp.regs`.
"""

from __future__ import annotations

from typing import Any

from hv.hypervisor.vps.vmcs import VpVmcs
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import Cr0, Cr4

CR0_OWNED, CR4_OWNED = Cr0.NE.value, Cr4.VMXE.value


def _control_register(real: VmcsField, shadow: VmcsField, owned: int) -> Any:
    def get(self: GuestRegisters) -> int:
        return self.vmcs.read(real) & ~owned | self.vmcs.read(shadow) & owned

    def put(self: GuestRegisters, value: int) -> None:
        self.vmcs.write(real, value | owned)
        self.vmcs.write(shadow, value)

    return property(get, put)


_OWN = frozenset({"state", "vmcs", "cr0", "cr4"})


class GuestRegisters:
    """CR0 and CR4 from the VMCS; every other register is *state*'s."""

    def __init__(self, state: Any, vmcs: VpVmcs) -> None:
        self.state, self.vmcs = state, vmcs
        vmcs.write(VmcsField.CR0_GUEST_HOST_MASK, CR0_OWNED)
        vmcs.write(VmcsField.CR4_GUEST_HOST_MASK, CR4_OWNED)

    cr0 = _control_register(VmcsField.GUEST_CR0, VmcsField.CR0_READ_SHADOW, CR0_OWNED)
    cr4 = _control_register(VmcsField.GUEST_CR4, VmcsField.CR4_READ_SHADOW, CR4_OWNED)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.state)})

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.state, name, value)
