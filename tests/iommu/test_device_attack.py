"""A hostile guest with a device of its own, and a guest with a hostile device: `device_attack.py`, `unit_attack.py`;
`make attack` takes other seeds."""

from __future__ import annotations

from tests.iommu import unit_attack
from tests.iommu.device_attack import attack


def test_no_attempt_of_an_assigned_device_leaves_its_domain():
    """Not a byte of another partition is read or written, and no vector is raised that is not the device's own."""
    made = attack(attempts=10_000, seed=6)
    assert (made.moved > 2000, made.refused > 5000, len(made.vectors) > 50) == (True, True, True)


def test_no_message_of_a_device_gets_past_the_guests_own_table():
    """VT-d "Source-id Validation": of 256 entries one is the device's, and whatever it sends raises that or a fault."""
    made = unit_attack.attack(attempts=800, seed=3)
    assert (made.raised.total() > 25, made.refused.total() > 200, len(made.refused)) == (True, True, 6)
