"""A vcpu with a virtual-APIC page and an APIC-access page, and handlers in machine code that note who was served."""

from __future__ import annotations

from hv.machine.faults import Access
from hv.spec.apic import ApicRegister as R
from hv.spec.vmcs import PinControls, PrimaryControls, SecondaryControls, VmcsField
from hv.vmx.apic.virtual_apic import VirtualApicPage
from hv.vmx.exit import VmExit
from hv.vmx.vcpu import Vcpu
from tests.guest_runner import assemble
from tests.vmx.vcpu_box import MSR_BITMAP, VcpuBox

ACCESS_GPA, ACCESS_SPA, PAGE, DESCRIPTOR = 0x70000, 0x72000, 0x71000, 0x73040
LOG = 0x20000                   # dwords: the vectors served, in order; R15 or EDI points behind the last
SERVICE = 0x54000               # code of the handlers, 64 bytes each
S = SecondaryControls
TPR_SHADOW = int(PrimaryControls.USE_TPR_SHADOW)
DELIVERY = int(S.APIC_REGISTER_VIRTUALIZATION | S.VIRTUAL_INTERRUPT_DELIVERY)
XAPIC, X2APIC = int(S.VIRTUALIZE_APIC_ACCESSES), int(S.VIRTUALIZE_X2APIC_MODE)

# A handler notes its vector and ends it; XX is the vector, EOI what ends it.
_SERVE_64 = "mov dword ptr [r15], XX; add r15, 4; EOI; iretq"
_SERVE_32 = "mov dword ptr [edi], XX; add edi, 4; EOI; iretd"
EOI_BY_PAGE = f"mov dword ptr [{ACCESS_GPA + R.EOI:#x}], 0"
EOI_BY_MSR = "mov ecx, 0x80B; xor eax, eax; xor edx, edx; wrmsr"


class ApicBox:
    """*box* with the two pages; `vcpu` makes a vcpu with the controls asked for."""

    def __init__(self, box: VcpuBox) -> None:
        self.box = box
        box.ept.map(ACCESS_GPA, ACCESS_SPA, Access.READ | Access.WRITE | Access.EXECUTE)
        box.ept.invept()
        self.page = VirtualApicPage(box.memory, PAGE)

    def vcpu(self, secondary: int, primary: int = TPR_SHADOW, pin: int = 0, bits: int = 64, user: bool = False,
             **fields: int) -> Vcpu:
        """CR8 and all MSRs do not exit; *fields* are VMCS fields by name."""
        vcpu = self.box.vcpu(bits, user)
        write, read = vcpu.vmcs.write, vcpu.vmcs.read
        self.box.memory.write(MSR_BITMAP, bytes(4096))
        for name, value in {"VIRTUAL_APIC_PAGE_ADDR": PAGE, "APIC_ACCESS_ADDR": ACCESS_SPA, "MSR_BITMAP": MSR_BITMAP,
                            "POSTED_INTR_DESC_ADDR": DESCRIPTOR, "POSTED_INTR_NOTIFICATION_VECTOR": 0xF2,
                            **fields}.items():
            write(VmcsField[name], value)
        cr8 = int(PrimaryControls.CR8_LOAD_EXITING | PrimaryControls.CR8_STORE_EXITING)
        write(VmcsField.PRIMARY_PROC_CONTROLS, read(VmcsField.PRIMARY_PROC_CONTROLS) & ~cr8 | primary
              | int(PrimaryControls.USE_MSR_BITMAPS))
        write(VmcsField.SECONDARY_PROC_CONTROLS, read(VmcsField.SECONDARY_PROC_CONTROLS) | secondary)
        write(VmcsField.PIN_BASED_CONTROLS, read(VmcsField.PIN_BASED_CONTROLS) | pin
              | int(PinControls.EXTERNAL_INTERRUPT_EXITING))
        return vcpu

    def serve(self, vcpu: Vcpu, vectors: range | tuple[int, ...], eoi: str, bits: int = 64) -> None:
        """Each of *vectors* gets a handler that notes it and ends it by *eoi*."""
        source = _SERVE_64 if bits == 64 else _SERVE_32
        for n, vector in enumerate(vectors):
            code = assemble(source.replace("XX", str(vector)).replace("EOI", eoi), bits, 0)
            self.box.memory.write(SERVICE + 64 * n, b"".join(part for _, part in code))
            self.box.gate(vector, bits, offset=SERVICE + 64 * n)
        if bits == 64:
            vcpu.state.r15 = LOG
        else:
            vcpu.state.rdi = LOG

    def run(self, vcpu: Vcpu, source: str, bits: int = 64, **registers: int) -> VmExit | None:
        """Run *source* to an exit that the box's handler stops at; the first exit."""
        for name, value in registers.items():
            setattr(vcpu.state, name, value)
        self.box.put(source, bits)
        self.box.exits.clear()
        self.box.go(vcpu)
        return self.box.exits[0] if self.box.exits else None

    def register(self, register: int) -> int:
        """A dword of the virtual-APIC page."""
        return self.box.memory.read_u32(PAGE + register)

    def put(self, register: int, value: int) -> None:
        self.box.memory.write_u32(PAGE + register, value)

    @property
    def served(self) -> list[int]:
        """What the handlers noted."""
        words = [self.box.memory.read_u32(LOG + 4 * n) for n in range(64)]
        return words[: words.index(0)]
