"""Why the hypervisor refuses an MSR or a hypercall with a fault: the privilege or the bit that was missing."""

from __future__ import annotations

from hv.debug.interface_text import privileges
from hv.debug.why.chain import Link
from hv.debug.why.names import msr_name
from hv.debug.why.visit import Scene
from hv.hypervisor.msrs import processor
from hv.hypervisor.msrs.absent import ABSENT
from hv.hypervisor.msrs.registry import MSRS
from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE
from hv.trace.events import PropertySet


def msr_refusal(scene: Scene, index: int, value: int | None) -> Link:
    """Why RDMSR of *index*, or WRMSR of *value*, is #GP(0)."""
    name, provided = msr_name(index), MSRS.get(index)
    if provided is None:
        return _processors(scene, index, value)
    if index in ABSENT:
        return Link(f"{name} is not here: {ABSENT[index]}", ok=False)
    missing = provided.privilege & ~scene.vp.partition.privileges
    if missing:
        return _missing(scene, missing)
    if value is None and provided.read is None:
        return Link(f"{name} is written only" if provided.write else f"{name} is not here", ok=False)
    if value is not None and provided.write is None:
        return Link(f"{name} is read only" if provided.read else f"{name} is not here", ok=False)
    return _value(name, index, value)


def _missing(scene: Scene, missing: int) -> Link:
    partition = scene.vp.partition.id

    def tells(event: object) -> bool:
        return isinstance(event, PropertySet) and event.partition == partition

    return Link(f"the partition lacks the privilege {'; '.join(privileges(missing))}", ok=False,
                look=lambda: scene.vp.partition.privileges & missing, tells=tells)


def _value(name: str, index: int, value: int | None) -> Link:
    row = SYNTHETIC_MSR_TABLE.get(index)
    wrong = 0 if row is None or value is None else value & row.must_be_zero
    if wrong:
        return Link(f"bits {wrong:#x} of {name} must be zero", ok=False)
    return Link(f"{name} does not take {value or 0:#x}, as things are now", ok=False)


def _processors(scene: Scene, index: int, value: int | None) -> Link:
    name = msr_name(index)
    if index in (processor.READERS if value is None else processor.WRITERS):
        return Link(f"the processor's own rules refuse {value or 0:#x} in {name}", ok=False)
    if index in processor.READERS:
        return Link(f"{name} is read only", ok=False)
    return Link(f"nobody has an MSR {name}: the hypervisor does not, no intercept is installed, and the partition's "
                "property UnimplementedMsrAction says fault", ok=False,
                look=lambda: scene.vp.partition.unimplemented_msr_action)


def vmcall_refusal(scene: Scene) -> Link:
    """Why VMCALL is #UD; TLFS "Establishing the Hypercall Interface"."""
    vp, page = scene.vp, scene.vp.partition.hypercall_msr
    if not page.enable:
        return Link(f"the guest has not established the hypercall page: HV_X64_MSR_HYPERCALL is {page.raw:#x}",
                    ok=False, look=lambda: scene.vp.partition.hypercall_msr.enable)
    if scene.exact and vp.regs.cpl:
        return Link(f"CPL is {vp.regs.cpl}: only the kernel may ask", ok=False)
    return Link(f"VMCALL is not in the hypercall page, which is at gpa {page.gpfn << 12:#x}, or the mode is none that "
                "may ask", ok=False)
