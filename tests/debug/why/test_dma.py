"""Why the IOMMU refused a device, by guests with one."""

import pytest

from tests.debug.why.guests import refused, said, session_over_code, session_over_guest


def test_a_page_that_the_guest_took_away_is_led_back_to_its_hypercall():
    """VT-d "Second-Level Paging Entries"; TLFS "HvCallUnmapDeviceGpaPages"."""
    answer = said(session_over_guest("device_domain"), "why dma")
    assert "read of 0x7000000000 by device 0x10 was refused" in answer.splitlines()[0]
    assert "✓ root entry of bus 0x0" in answer
    assert "✓ context entry of device 0x10" in answer
    assert "✗ level-1 entry at spa" in answer
    assert "is 0x0: R=0 W=0\n    set: E500+1 by HvCallUnmapDeviceGpaPages of device_domain.0" in answer
    assert "set: E307+1 by HvCallAttachDeviceDomain of device_domain.0 (DeviceInDomain" in answer


def test_what_was_never_mapped_is_said_to_be_so():
    answer = said(session_over_guest("attacker"), "why dma")
    assert "write to 0x40000000 by device 0x10 was refused: a write to an address the domain may not" in answer
    assert "✗ level-3 entry at spa" in answer
    assert "R=0 W=0\n    set: never mapped" in answer
    assert "by HvCallAttachDevice of root.0 (DeviceAttached" in answer


def test_without_a_recording_the_tables_are_those_of_now():
    answer = said(session_over_guest("attacker", recorded=False), "why dma")
    assert answer.startswith("#")
    assert "✗ level-3 entry" in answer
    assert "the tables are those of now" in answer


SEND = """
    .include "lib/dma_engine.inc"
    mov rbx, [INFO]
    mov rax, {address}; mov [rbx + REG_MSI_ADDRESS], rax
    mov dword ptr [rbx + REG_MSI_DATA], {data}
    mov dword ptr [rbx + REG_MSI_ENABLE], 1
    mov eax, 0x300000; mov [rbx + REG_DESTINATION], rax
    mov dword ptr [rbx + REG_LENGTH], 64
    mov dword ptr [rbx + REG_COMMAND], 2
again: pause; jmp again
"""
ROWS = {
    "compatibility": ("0xFEE00000", 0x50, "✗ the message is in compatibility format, which names a vector itself"),
    "not-present": ("0xFEE00010 + (77 << 5)", 0, "✓ entry 0x4d is inside the table"),
    "reserved": ("0xFEE00010", "0x10000", "✗ reserved bits are set in the message"),
}


@pytest.mark.parametrize(("address", "data", "wanted"), ROWS.values(), ids=ROWS)
def test_an_interrupt_of_a_device_is_led_to_its_remapping_entry(address, data, wanted):
    """VT-d "Interrupt Remapping"."""
    answer = said(session_over_code(SEND.format(address=address, data=data), device=True), "why dma")
    assert "by device 0x10 was refused: " in answer.splitlines()[0]
    assert wanted in answer
    if "0x4d" in wanted:
        assert ": not present" in answer


def test_a_machine_that_refused_nothing_says_so():
    session = session_over_code("cpuid; cli; hlt")
    assert "no device has been refused anything" in refused(session, "why dma")
    session.machine.close()
