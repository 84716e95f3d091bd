"""The guests that come with hvlab: each assembles, is deterministic, disassembles, and keeps to docs/guests.md."""

from __future__ import annotations

from functools import cache

import capstone
import pytest

from hv.image.library import guest_names, guests_folder
from hv.image.load import load
from hv.image.model import Image

NAMES = ["attacker", "crasher", "dma", "hello", "hypercaller", "long_mode", "msr_reader", "receiver", "start_vp",
         "timer", "two_vps"]
REAL_MODE = {"hello", "long_mode"}


@cache
def a_guest(name: str) -> Image:
    folder = guests_folder()
    assert folder is not None
    return load(folder / f"{name}.asm")


def test_all_guests_of_the_issue_are_there() -> None:
    assert set(NAMES) <= set(guest_names())


@pytest.mark.parametrize("name", NAMES)
def test_a_guest_starts_as_documented(name: str) -> None:
    image = a_guest(name)
    assert image.bits == (16 if name in REAL_MODE else 64)
    assert image.entry == image.symbols["start"]
    for segment in image.segments:
        end = segment.gpa + len(segment.data)
        assert end <= 0x500 or segment.gpa >= 0x600, "the information block is the loader's"
        assert name in REAL_MODE or end <= 0x60000, "tables begin there"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {*REAL_MODE, "two_vps"}])
def test_every_statement_disassembles_to_one_instruction(name: str) -> None:
    """Straight through each routine: the bytes between two statements are whole instructions of the entry's mode.

    Those that change modes are left out; their instructions are verified one by one while they are assembled.
    """
    image = a_guest(name)
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    memory = {segment.gpa + n: byte for segment in image.segments for n, byte in enumerate(segment.data)}
    addresses = sorted(image.places)
    for address, after in zip(addresses, [*addresses[1:], addresses[-1] + 15], strict=True):
        code = bytes(memory.get(address + n, 0) for n in range(min(after - address, 15)))
        (found,) = engine.disasm(code, address, count=1)
        assert found.size <= after - address


@pytest.mark.parametrize("name", NAMES)
def test_a_guest_has_a_lesson(name: str) -> None:
    """The header comment: what it shows, which manual heading to read."""
    folder = guests_folder()
    assert folder is not None
    text = (folder / f"{name}.asm").read_text()
    head = text.split("\n\n")[0]
    assert head.startswith(f"; {name}: ")
    assert "; Shows: " in head
    assert "; Read:  " in head


def test_the_attacker_claims_success_in_one_place_only() -> None:
    """It says "reached" by one string, printed after a comparison, never in the name of an attempt."""
    image = a_guest("attacker")
    data = b"".join(segment.data for segment in image.segments)
    assert data.count(b"reached") == 1
