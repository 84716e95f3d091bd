"""Both local APICs of a VP against the manual's algorithm, written down here once more and as plainly as it is there.

SDM "Task and Processor Priorities", "Interrupt Acceptance for Fixed Interrupts", "Signaling Interrupt Servicing
Completion".
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.interrupts.assisted_apic import AssistedApic
from hv.hypervisor.interrupts.vp_apic import VpApic
from hv.machine.clock import VirtualClock
from hv.machine.ram import PhysicalMemory
from hv.spec.apic import ApicRegister as R
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.apic.virtual_apic import VirtualApic, VirtualApicPage

SPURIOUS = 0xEF


class Manual:
    """The algorithm, with sets."""

    def __init__(self):
        self.irr, self.isr, self.tmr, self.tpr, self.enabled, self.suppressed = set(), set(), set(), 0, False, False
        self.broadcast = []

    def ppr(self):
        isrv = max(self.isr, default=0)
        if self.tpr // 16 >= isrv // 16:
            return self.tpr
        return isrv // 16 * 16

    def deliverable(self):
        highest = max(self.irr, default=None)
        if highest is None or highest // 16 <= self.ppr() // 16:
            return None
        return highest

    def accept(self, vector, level):
        if self.enabled and vector >= 16:
            self.irr.add(vector)
            (self.tmr.add if level else self.tmr.discard)(vector)

    def acknowledge(self):
        vector = self.deliverable()
        if vector is None:
            return SPURIOUS
        self.irr.remove(vector)
        self.isr.add(vector)
        return vector

    def eoi(self):
        if self.isr:
            vector = max(self.isr)
            self.isr.remove(vector)
            if vector in self.tmr and not self.suppressed:
                self.broadcast.append(vector)


def plain():
    return AssistedApic(0, VirtualClock(), True, PhysicalMemory(PAGE_SIZE), lambda: None)


def on_its_page():
    virtual = VirtualApic(VirtualApicPage(PhysicalMemory(PAGE_SIZE), 0))
    return VpApic(0, VirtualClock(), True, virtual, lambda vectors: None)


def as_set(vectors):
    return {vector for vector in range(256) if vectors >> vector & 1}


VECTORS = st.integers(0, 255) | st.sampled_from([15, 16, 31, 0x41, 0x4F, 0x50, 0x51, 0xFF])
ACTS = st.lists(st.one_of(
    st.tuples(st.just("accept"), VECTORS, st.booleans()), st.tuples(st.just("take"), st.none(), st.none()),
    st.tuples(st.just("eoi"), st.none(), st.none()), st.tuples(st.just("tpr"), st.integers(0, 255), st.none()),
    st.tuples(st.just("cr8"), st.integers(0, 15), st.none()),
    st.tuples(st.just("svr"), st.booleans(), st.booleans())), max_size=40)


@pytest.mark.parametrize("make", [plain, on_its_page])
@settings(max_examples=60)
@given(acts=ACTS)
def test_it_does_what_the_manual_says(make, acts):
    manual, apic, heard = Manual(), make(), []
    apic.on_broadcast_eoi = heard.append
    for name, value, flag in [("svr", True, False), *acts]:
        match name:
            case "accept":
                manual.accept(value, flag)
                apic.accept(value, flag)
            case "take":
                assert apic.acknowledge() == manual.acknowledge()
            case "eoi":
                manual.eoi()
                apic.eoi()
            case "tpr":
                manual.tpr = value
                apic.write(R.TPR, value)
            case "cr8":
                manual.tpr = value * 16
                apic.cr8 = value
            case _:
                manual.enabled, manual.suppressed = value, flag
                apic.write(R.SVR, SPURIOUS | value << 8 | flag << 12)
        assert (as_set(apic.irr), as_set(apic.isr), as_set(apic.tmr)) == (manual.irr, manual.isr, manual.tmr)
        assert (apic.ppr, apic.deliverable(), apic.cr8, heard) == (
            manual.ppr(), manual.deliverable(), manual.tpr // 16, manual.broadcast)
