"""Hosts without the native routines: the same guests give the same results, to the byte."""

import os
import subprocess
import sys

import pytest

from hv.image.library import guest_names

# Enough of each kind of trap: ports, MSRs, interrupts, system structures, DMA; the long ones add nothing but time.
GUESTS = ("hello", "long_mode", "timer", "two_vps", "dma", "crasher")


def run_json(guest: str, native: bool) -> bytes:
    environment = {**os.environ, "HVLAB_NO_NATIVE": "" if native else "1"}
    done = subprocess.run([sys.executable, "-m", "hv", "run", guest, "--json", "--device", "--smp", "2"], check=False,
                          capture_output=True, env=environment, timeout=100)
    assert done.stdout, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("guest", GUESTS)
def test_python_hooks_and_native_routines_cannot_be_told_apart(guest):
    assert guest in guest_names()
    assert run_json(guest, native=False) == run_json(guest, native=True)
