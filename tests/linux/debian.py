"""Programs that nobody here wrote, out of Debian's packages: fetched by apt, unpacked, kept for the next run.

Nothing of them is installed, and nothing is committed. Where apt or its network is missing, `unpacked` skips the test
and says what is missing.
"""

import os
import shutil
import subprocess
from pathlib import Path

import platformdirs
import pytest

FOLDER = Path(platformdirs.user_cache_dir("hvlab")) / "debian"
KERNEL = "linux-image-cloud-amd64"
SECONDS = 90


def unpacked(package):
    """The folder with the files of *package*; the test is skipped when it cannot be had."""
    return _kept(package)


def kernel():
    """The bzImage of Debian's kernel for virtual machines: the one that was fetched before, or today's."""
    known = sorted(FOLDER.glob("linux-image-*-cloud-amd64/boot/vmlinuz-*"))
    return known[-1] if known else min((_kept(_kernel_package()) / "boot").glob("vmlinuz-*"))


def _kernel_package():
    """What the package KERNEL, which has nothing in it, depends on."""
    lines = run("apt-cache", "depends", KERNEL).splitlines()
    named = [line.split()[-1] for line in lines if line.strip().startswith("Depends: linux-image-")]
    if not named:
        pytest.skip(f"apt knows no {KERNEL}: no Debian, or its lists were never fetched (apt-get update)")
    return named[0]


def _kept(package):
    """*package* unpacked, once: the folder appears whole, whoever else unpacks it at the same time."""
    place = FOLDER / package
    if place.is_dir():
        return place
    FOLDER.mkdir(parents=True, exist_ok=True)
    new = FOLDER / f".{package}.{os.getpid()}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        run("apt-get", "download", package, cwd=new)
        (archive,) = new.glob("*.deb")
        run("dpkg-deb", "-x", archive, new / "files")
        try:
            (new / "files").rename(place)
        except OSError:
            assert place.is_dir(), "another test run was faster"
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return place


def run(*command, cwd=None):
    """What *command* prints; skips when it is not there, or fails for want of a network."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not here: these tests take Debian's packages")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{' '.join(map(str, command))}: no answer in {SECONDS} s")
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[-1]
        pytest.skip(f"{command[0]}: {last}")
    return done.stdout
