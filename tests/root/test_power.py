"""The power switch."""

import pytest

from hv.root.vdev.power import PORTS, SLEEP_ENABLE, PowerSwitch


@pytest.mark.parametrize(("value", "off"), [(0x2000, 1), (0xFFFF, 1), (0x0000, 0), (0xDFFF, 0)])
def test_only_slp_en_switches_off(value, off):
    """ACPI "PM1 Control Registers"."""
    calls = []
    switch = PowerSwitch(lambda: calls.append(1))
    switch.write_port(PORTS.start, 2, value)
    assert len(calls) == off


def test_slp_en_reads_zero_and_the_rest_is_kept():
    switch = PowerSwitch(lambda: None)
    switch.write_port(PORTS.start, 2, SLEEP_ENABLE | 0x1C01)
    assert switch.read_port(PORTS.start, 2) == 0x1C01
    assert switch.inspect() == {"control": SLEEP_ENABLE | 0x1C01}
