"""The buffers of ApicEoi messages: one for each vector, and none that outlives its VP or the parent's wish."""

import pytest

from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.intercepts import HvInterceptType as T
from hv.spec.synic import SINT_INTERCEPT, ApicEoiMessage
from tests.hypervisor.hypercalls.test_call_parameters import GUEST, Bench, intercept


@pytest.fixture
def bench():
    """Its parent takes no messages yet, so what is sent waits."""
    made = Bench()
    made.done(C.INSTALL_INTERCEPT, **intercept(T.APIC_EOI, 0, 4))
    return made


def end(bench, vector, level=True, index=0):
    apic = bench.guest.vps[index].apic
    apic.accept(vector, level)
    apic.acknowledge()
    apic.eoi()


def waiting(bench):
    queue = bench.hypervisor.root.vps[0].synic.queues[SINT_INTERCEPT]
    messages = [ApicEoiMessage.parse(message.payload) for message in queue]
    return [(message.vp_index, message.interrupt_vector) for message in messages]


def test_a_vector_that_waits_is_not_told_again(bench):
    """So a guest that its parent does not listen to fills no queue."""
    for _ in range(3):
        end(bench, 0x51)
        end(bench, 0x52)
    end(bench, 0x53, level=False)
    assert waiting(bench) == [(0, 0x51), (0, 0x52)]


def test_a_vp_that_is_made_later_tells_too_and_takes_its_messages_with_it(bench):
    bench.done(C.CREATE_VP, partition_id=GUEST, vp_index=1)
    end(bench, 0x51)
    end(bench, 0x51, index=1)
    assert waiting(bench) == [(0, 0x51), (1, 0x51)]
    bench.done(C.DELETE_VP, partition_id=GUEST, vp_index=1)
    assert waiting(bench) == [(0, 0x51)]


def test_a_parent_that_asks_no_more_hears_nothing_more(bench):
    end(bench, 0x51)
    bench.done(C.INSTALL_INTERCEPT, **intercept(T.APIC_EOI, 0, 0))
    end(bench, 0x52)
    assert waiting(bench) == []
    bench.done(C.INSTALL_INTERCEPT, **intercept(T.APIC_EOI, 0, 4))
    end(bench, 0x51)
    assert waiting(bench) == [(0, 0x51)]


def test_what_the_parent_has_seen_may_be_told_again(bench):
    end(bench, 0x51)
    queue = bench.hypervisor.root.vps[0].synic.queues[SINT_INTERCEPT]
    queue.popleft().on_delivered()
    end(bench, 0x51)
    assert waiting(bench) == [(0, 0x51)]
