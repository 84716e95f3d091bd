"""`inspect PATH` answers for every object, to the bottom of what it tells."""

import json

import pytest

from hv.debug.data import plain_data
from hv.debug.paths import parts_of, reached
from tests.debug.sessions import refused, session_over

_DEEPEST, _MOST = 6, 5


@pytest.fixture(scope="module")
def dma():
    session = session_over(("dma", "dma", 1), ("timer", "timer", 2), device=True)
    session.do("until 100us")
    yield session
    session.machine.close()


def paths(session, path="", depth=0):
    """Every path that goes on from *path*; of what has many parts, the first ones."""
    yield path
    for part in parts_of(reached(session, path))[: None if depth < 3 else _MOST] if depth < _DEEPEST else ():
        if part not in path.split("/"):             # an object that leads back to one above
            yield from paths(session, f"{path}/{part}".strip("/"), depth + 1)


TOPS = ["vm/dma", "partition/1", "iommu", "routes", "device/0x10", "processor", "mmio", "clock"]


@pytest.mark.parametrize("top", TOPS)
def test_every_path_answers_in_text_and_in_data(dma, top):
    count = 0
    for path in paths(dma, top, 1):
        dma.do(f"inspect {path}")
        json.dumps(plain_data(dma.value(f"inspect {path}")))
        count += 1
    assert count > (len(parts_of(reached(dma, top))))


@pytest.mark.parametrize(("path", "part"), [
    ("vm/dma/worker/motherboard", "com1/base"), ("hypervisor/owners", "pages"), ("partition/2/intercepts", "0x3f8"),
    ("vm/dma/pool/records/device_interrupt", "1"), ("routes/0x30/vector", "0x50"), ("processor/apic/svr", "enabled"),
    ("partition/3/vps", "0\n1"), ("vm/timer/vp/1/index", "1"), ("clock/tsc", "0x"),
])
def test_objects_that_others_do_not_tell_of_answer_too(dma, path, part):
    assert part in dma.do(f"inspect {path}")


def test_the_beginning_of_all_paths_is_listed(dma):
    assert [line.split()[0] for line in dma.do("inspect").splitlines()][:6] == [
        "vm/dma", "vm/timer", "root", "partition/1", "partition/2", "partition/3"]


@pytest.mark.parametrize(("path", "words"), [
    ("vm/dma/nothing", "there is no `nothing` in vm/dma; there are id, parent"),
    ("clock/tsc/x", "clock/tsc has no parts; it is a plain value"), ("vm/x", "`x` is no VM"),
    ("partition/9", "there is no `9` in partition; there are 1, 2, 3"),
    ("vm/dma/vp/0/register_page", "there is no `register_page`"), ("vm/dma/__class__", "there is no `__class__`"),
])
def test_a_path_that_leads_nowhere_says_what_there_is(dma, path, words):
    assert words in refused(dma, f"inspect {path}")
