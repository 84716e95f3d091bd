"""Why a guest was left for an event: exceptions, interrupts, windows, and what ends a VP."""

from __future__ import annotations

from hv.debug.why.chain import Link
from hv.debug.why.exits import because, control, field_link
from hv.debug.why.names import vector_name, who
from hv.debug.why.visit import Scene
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType
from hv.spec.vmcs import PinControls, PrimaryControls, VmcsField
from hv.spec.x86 import Vector

P, N = PrimaryControls, PinControls


@because(ExitReason.EXCEPTION_OR_NMI)
def exception(scene: Scene) -> list[Link]:
    """SDM "Exception Bitmap", "NMI exiting"."""
    info = InterruptionInfo(scene.exit.interruption_info)
    if info.type == InterruptionType.NMI:
        return [Link("a physical NMI came while the guest ran", [control(scene, N.NMI_EXITING)])]
    vector = info.vector

    def look() -> int:
        return scene.vp.vcpu.vmcs.read(VmcsField.EXCEPTION_BITMAP) >> vector & 1

    links = [Link(f"bit {vector} of EXCEPTION_BITMAP is {look()}", look=look)]
    if vector == Vector.PF:
        links += [field_link(scene, field, f"{field.name} is {{}}, error code {scene.exit.interruption_error_code:#x}")
                  for field in (VmcsField.PAGE_FAULT_ERROR_CODE_MASK, VmcsField.PAGE_FAULT_ERROR_CODE_MATCH)]
    return [Link(f"{vector_name(vector)} exits, since the exception bitmap says so", links)]


@because(ExitReason.EXTERNAL_INTERRUPT)
def external_interrupt(scene: Scene) -> list[Link]:
    """A physical interrupt belongs to who owns the device, not to who runs."""
    vector = InterruptionInfo(scene.exit.interruption_info).vector
    return [Link(f"physical vector {vector:#x} came while the guest ran", [control(scene, N.EXTERNAL_INTERRUPT_EXITING),
                                                                        owner(scene, vector)])]


def owner(scene: Scene, vector: int) -> Link:
    """Whose physical *vector* is, by the routing table."""
    table = scene.vp.hypervisor.interrupts

    def look() -> object:
        return table.inspect().get(f"{vector:#x}")

    route = table.inspect().get(f"{vector:#x}")
    if route is None:
        return Link(f"the routing table has no owner of physical vector {vector:#x}: it is the processor's own "
                    "timer's, or nobody's", look=look)
    receivers = ", ".join(who(scene.session, route["partition"], index) for index in route["vps"])
    return Link(f"the routing table gives it to {receivers} as vector {route['vector']:#x}, from device "
                f"{route['source_id']:#x}", look=look)


@because(ExitReason.INTERRUPT_WINDOW)
def interrupt_window(scene: Scene) -> list[Link]:
    """SDM "Interrupt-Window Exiting"."""
    vector = scene.vp.apic.deliverable()
    waits = Link(f"vector {vector:#x} is requested, and could not be delivered before RFLAGS.IF was set"
                 if vector is not None else "what waited for the window has been delivered, or is an external line's")
    return [Link("RFLAGS.IF is 1 and no STI or MOV SS blocks: the window that the hypervisor waited for is open",
                 [control(scene, P.INTERRUPT_WINDOW_EXITING), waits])]


@because(ExitReason.NMI_WINDOW)
def nmi_window(scene: Scene) -> list[Link]:
    """SDM "NMI-Window Exiting"."""
    waits = "an NMI waits for it" if scene.vp.nmi_pending else "nothing waits any more"
    return [Link("NMIs are not blocked any more: the window that the hypervisor waited for is open",
                 [control(scene, P.NMI_WINDOW_EXITING), Link(waits)])]


@because(ExitReason.TRIPLE_FAULT)
def triple_fault(scene: Scene) -> list[Link]:
    """SDM "Interrupt 8 - Double Fault Exception (#DF)": a fault in the delivery of #DF."""
    return [Link("an exception came up while #DF was being delivered: the processor shuts down, which always exits "
                 "(`why fault` shows the nesting)")]


@because(ExitReason.TASK_SWITCH)
def task_switch(scene: Scene) -> list[Link]:
    """SDM "Task Switches": each one exits."""
    sources = ("CALL", "IRET", "JMP", "a task gate in the IDT")
    qualification = scene.exit.qualification
    return [Link(f"a task switch exits unconditionally: {sources[qualification >> 30 & 3]} leads to the TSS of "
                 f"selector {qualification & 0xFFFF:#x}")]


@because(ExitReason.ENTRY_FAILURE_GUEST_STATE, ExitReason.ENTRY_FAILURE_MSR_LOADING)
def entry_failure(scene: Scene) -> list[Link]:
    """SDM "VM-Entry Failures During or After Loading Guest State"; each rule, as `hv explain vmentry` tells it."""
    failure = scene.vp.vcpu.entry_result.failure
    links = [] if failure is None else [Link(failure.words, ok=False)]
    return [Link("VM entry failed (`vmentry` tells every rule that does not hold)", links)]
