"""inject, nmi, interrupt, property, protect, mask: what a parent may do, done from outside."""

import pytest

from tests.debug.sessions import refused, session_over


@pytest.mark.parametrize(("line", "said"), [
    ("inject GP 0", "event of the next VM entry  none -> #GP, error code 0x0"),
    ("inject 13 0x50", "event of the next VM entry  none -> #GP, error code 0x50"),
    ("inject UD", "event of the next VM entry  none -> #UD"),
    ("inject NMI", "event of the next VM entry  none -> #NMI"),
    ("inject 0x30", "event of the next VM entry  none -> interrupt 0x30"),
    ("nmi", "NMI pending  False -> True"),
    ("property CPU_CAP 0x8000", "CPU_CAP  0 -> 0x8000"),
    ("property suspend 1", "SUSPEND  0 -> 1"),
    ("property CPU_CAP", "CPU_CAP  0"),
    ("protect 0x50000 r-x", "gpa 0x50000, 1 page  rwx -> r-x"),
    ("protect 0x50fff ---", "gpa 0x50000, 1 page  rwx -> ---"),
    ("protect 0x50000 r-- 16", "gpa 0x50000, 16 pages  rwx -> r--"),
    ("unmask sint3", "sint3  masked -> let through"),
    ("mask sint2", "sint2  masked, as before"),
])
def test_a_parents_doing_says_what_was_and_what_is(timer, line, said):
    if line.startswith("unmask"):
        timer.do("set sint3.vector 0x40")
    assert timer.do(line) == said


@pytest.mark.parametrize(("line", "words"), [
    ("inject GP", "vector 13 has an error code; write inject GP 0"),
    ("inject 0x30 5", "vector 48 has no error code; write inject 0x30"),
    ("inject 256", "vector 0x100 is out of range 0..255"),
    ("inject foo", "`foo` is no register and no symbol"),
    ("inject GP 1 << 40", "is too much"),
    ("inject GP 0x10000000000", "does not fit an error code"),
    ("interrupt 5", "vector 0x5 is below 16"),
    ("interrupt 256", "vector 0x100 is out of range"),
    ("property CPU_CAPP", "near: CPU_CAP"),
    ("property CPU_CAP 0x20000", "PROPERTY_VALUE_OUT_OF_RANGE: 131072 is out of range 0..65536"),
    ("property PRIVILEGE_FLAGS 0", "INVALID_PARTITION_STATE: partition 2 is active, not created"),
    ("property APIC_FREQUENCY 1", "OPERATION_DENIED: property 0x30004 is only read"),
    ("protect 0x50000 xwr", "`xwr` are no rights"),
    ("protect 0x50000 -w-", "write or execute needs read"),
    ("protect 0x5000000000 rwx", "guest-physical 0x5000000000 is not mapped"),
    ("protect 0x50000 rwx 1000", "1000 pages are out of range 1..512"),
    ("mask sint16", "`sint16` is no source of interrupts; there are sint0..sint15, timer"),
    ("mask vector 0x30", "no device has physical vector 0x30"),
    ("mask timer 5", "`5` is too much"),
    ("unmask sint3", "SINT3 0x0: the guest's own write of it would be exception 13"),
])
def test_what_a_parent_cannot_do_is_refused(timer, line, words):
    assert words in refused(timer, line)


def test_an_injected_exception_is_delivered_through_the_guests_idt(timer):
    """SDM "Event Injection": whatever RFLAGS.IF says, at the next VM entry."""
    timer.do("until on_timer")
    timer.do("inject 0x30")
    timer.do("set rip 0x10000")
    timer.do("step")
    assert "Injected" in timer.do("last event == Injected")
    assert timer.do("regs").count("rip") == 1
    assert timer.do("events where event == Injected and vector == 0x30")


def test_an_interrupt_is_requested_and_waits_for_its_turn(timer):
    assert timer.do("interrupt 0x41").splitlines() == [
        "requested  none, as before", "the APIC is disabled: it drops fixed interrupts"]
    timer.do("set apic_spurious 0x1ff")
    assert timer.do("interrupt 0x41").splitlines() == ["requested  none -> 0x41", "it waits: RFLAGS.IF is 0"]
    timer.do("set apic_tpr 0x50")
    assert "it waits: its class 4 is not above the processor priority 0x50" in timer.do("irq 0x41")


def test_a_mask_stays_while_the_apic_is_disabled(timer):
    """SDM "Local APIC State After It Has Been Software Disabled"."""
    assert timer.do("unmask lint0").splitlines() == [
        "lint0  masked, as before", "it stays masked while the APIC is disabled by software"]
    timer.do("set apic_spurious 0x1ff")
    assert timer.do("unmask lint0") == "lint0  masked -> let through"


def test_a_page_that_is_protected_is_a_violation_for_the_guest(timer):
    timer.do("protect start ---")
    timer.do("continue")
    assert "EPT_VIOLATION" in timer.do("exits")


def test_privileges_are_told_by_name(timer):
    shown = timer.value("property PRIVILEGE_FLAGS")
    assert "POST_MESSAGES" in shown["has"]
    assert "CREATE_PARTITIONS" in shown["has not"]
    assert set(timer.value("property")) >= {"CPU_CAP", "GUEST_OS_ID", "SUSPEND"}


@pytest.fixture
def with_device():
    session = session_over(("dma", "dma", 1), device=True)
    yield session
    session.machine.close()


def test_a_devices_interrupt_is_blocked_by_the_iommu_and_let_through_again(with_device):
    """VT-d "Interrupt-Remapping Fault Conditions": an entry that is not present is a fault."""
    vector = with_device.do("inspect routes").split()[0].split("/")[0]
    assert with_device.do(f"mask vector {vector}") == f"device 0x10, vector {vector}  let through -> masked"
    with_device.do("until 2ms")
    assert not with_device.do("events where event == InterruptRouted").startswith("#")
    assert with_device.do("events where event == InterruptRemapFault").startswith("#")
    assert with_device.do(f"unmask vector {vector}") == f"device 0x10, vector {vector}  masked -> let through"
