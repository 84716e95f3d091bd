"""A hostile guest with a device of its own: `device_attack.py`; `make attack` takes other seeds."""

from __future__ import annotations

from tests.iommu.device_attack import attack


def test_no_attempt_of_an_assigned_device_leaves_its_domain():
    """Not a byte of another partition is read or written, and no vector is raised that is not the device's own."""
    made = attack(attempts=10_000, seed=6)
    assert (made.moved > 2000, made.refused > 5000, len(made.vectors) > 50) == (True, True, True)
