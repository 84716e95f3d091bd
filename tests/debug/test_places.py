"""Names for addresses: the label before, as far as it reaches."""

import pytest

from hv.debug.places import Places
from hv.image.model import Image, Segment

IMAGE = Image("assembly", [Segment(0x1000, bytes(0x8000), True, True), Segment(0x20000, bytes(0x10), True, False)],
              0x1000, 64, {"start": 0x1000, "begin": 0x1000, "start.loop": 0x1010, "data": 0x20000, "end": 0x20010},
              {0x1010: 7}, {0x1010: "a.asm:7"})


@pytest.mark.parametrize(("address", "name"), [
    (0x1000, "begin"), (0x100F, "begin+0xf"), (0x1010, "start.loop"), (0x1011, "start.loop+0x1"),
    (0x500F, "start.loop+0x3fff"), (0x5010, "0x5010"),          # too far behind to be a part of it
    (0xFFF, "0xfff"), (0, "0x0"), (0x9000, "0x9000"),           # outside the program
    (0x20000, "data"), (0x2000F, "data+0xf"), (0x20010, "0x20010"), (1 << 63, "0x8000000000000000"),
])
def test_an_address_is_called_by_the_label_before_it(address, name):
    """Of several labels at one place the first by name."""
    assert Places({"vm": IMAGE}).name("vm", address) == name


def test_what_has_no_program_has_no_names():
    places = Places({"vm": IMAGE})
    assert (places.name("other", 0x1000), places.source("other", 0x1010), places.symbols("other")) == ("0x1000", "", {})
    assert (places.source("vm", 0x1010), places.source("vm", 0x1011)) == ("a.asm:7", "")
    assert places.symbols("vm") == IMAGE.symbols
