"""The SynIC of a VP: registers, delivery, pending, events."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.partitions.cpuid import CpuidTable
from hv.hypervisor.synic.synic import QueuedMessage
from hv.machine.faults import GuestFault
from hv.spec.msrs import HvSynicSint, Msr
from hv.spec.synic import HvMessage
from hv.trace.events import EventDelivered, MessageDelivered, MessagePending
from tests.hypervisor.fakes import Machine

SIM, SIEF = 0x3000, 0x4000
VECTOR = 0x52


@pytest.fixture
def machine():
    return Machine()


def with_synic(vp, sint=2, **fields):
    vp.synic.write_msr(Msr.HV_SCONTROL, 1)
    vp.synic.write_msr(Msr.HV_SIMP, SIM | 1)
    vp.synic.write_msr(Msr.HV_SIEFP, SIEF | 1)
    vp.synic.write_msr(Msr.HV_SINT0 + sint, HvSynicSint(vector=VECTOR, **fields).raw)
    return vp


def slot(vp, sint=2):
    return HvMessage.parse(vp.partition.space.read(SIM + sint * 256, 256))


def empty_slot(vp, sint=2):
    vp.partition.space.write(SIM + sint * 256, bytes(4))


def note(text=b"note", kind=1, sender=7):
    return QueuedMessage(kind, text, sender)


def test_a_message_is_in_its_slot_and_the_vector_in_irr(machine):
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"hello", 0x10, 0x99))
    header = slot(vp).header
    assert (header.message_type, header.payload_size, header.message_flags, header.sender) == (0x10, 5, 0, 0x99)
    assert slot(vp).payload[:5] == b"hello"
    assert vp.apic.irr == 1 << VECTOR
    assert vp.kicks
    assert machine.events(MessageDelivered)[-1].sint == 2


def test_a_second_message_waits_for_eom_and_sets_pending(machine):
    """TLFS "Message Delivery"; checklist 7."""
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"one"))
    vp.synic.post(2, note(b"two"))
    vp.synic.post(2, note(b"three"))
    assert (slot(vp).payload[:3], slot(vp).header.message_flags) == (b"one", 1)
    assert machine.events(MessagePending)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert slot(vp).payload[:3] == b"one"           # still occupied
    empty_slot(vp)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert (slot(vp).payload[:3], slot(vp).header.message_flags) == (b"two", 1)
    empty_slot(vp)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert (slot(vp).payload[:5], slot(vp).header.message_flags) == (b"three", 0)


def test_a_message_may_be_composed_at_delivery(machine):
    """TLFS "Timer Expiration Messages" hold the time of delivery, which may be long after that of expiry."""
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"one"))
    text = [b"early"]
    vp.synic.post(2, note(lambda: text[0]))
    text[0] = b"late"
    empty_slot(vp)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert (slot(vp).header.payload_size, slot(vp).payload[:4]) == (4, b"late")


def test_a_message_that_waits_can_be_withdrawn(machine):
    vp = with_synic(machine.child().vps[0])
    told = []
    messages = [QueuedMessage(1, text, 0, lambda: told.append(1)) for text in (b"one", b"two", b"three")]
    for message in messages:
        vp.synic.post(2, message)
    vp.synic.withdraw(2, messages[1])
    assert told == [1]                              # of the first one, which is in the slot
    empty_slot(vp)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert (slot(vp).payload[:5], slot(vp).header.message_flags) == (b"three", 0)


def test_eoi_of_the_sints_vector_delivers_what_waits(machine):
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"one"))
    vp.synic.post(2, note(b"two"))
    assert vp.apic.acknowledge() == VECTOR
    empty_slot(vp)
    vp.apic.eoi()
    assert slot(vp).payload[:3] == b"two"


def test_a_message_waits_until_the_synic_is_on(machine):
    vp = machine.child().vps[0]
    vp.synic.post(2, note(b"early"))
    with_synic(vp)
    assert slot(vp).payload[:5] == b"early"


@pytest.mark.parametrize("fields", [{"masked": 1}, {"polling": 1}], ids=["masked", "polling"])
def test_a_quiet_sint_gets_the_message_without_an_interrupt(machine, fields):
    vp = with_synic(machine.child().vps[0], **fields)
    vp.synic.post(2, note())
    assert slot(vp).header.message_type == 1
    assert vp.apic.irr == 0


def test_auto_eoi_vectors_are_known(machine):
    vp = with_synic(machine.child().vps[0], auto_eoi=1)
    assert vp.synic.auto_eoi_vectors == {VECTOR}


@pytest.mark.parametrize(("value", "legal"), [
    (0x0F, False), (0x00, False), (0x10, True), (0xFF, True), (0x1000F, True), (0x10000, True)])
def test_a_sint_refuses_a_vector_below_16_unless_masked(machine, value, legal):
    """TLFS "SINTx Registers"."""
    synic = machine.child().vps[0].synic
    if legal:
        synic.write_msr(Msr.HV_SINT2, value)
        assert synic.read_msr(Msr.HV_SINT2) == value
    else:
        with pytest.raises(GuestFault):
            synic.write_msr(Msr.HV_SINT2, value)
        assert synic.read_msr(Msr.HV_SINT2) == 0x10000


def test_the_version_is_1_and_read_only_and_eom_reads_0(machine):
    synic = machine.child().vps[0].synic
    assert (synic.read_msr(Msr.HV_SVERSION), synic.read_msr(Msr.HV_EOM)) == (1, 0)
    with pytest.raises(GuestFault):
        synic.write_msr(Msr.HV_SVERSION, 1)


def test_a_page_outside_the_gpa_space_faults_and_changes_nothing(machine):
    synic = machine.child().vps[0].synic
    with pytest.raises(GuestFault):
        synic.write_msr(Msr.HV_SIMP, 1 << 45 | 1)
    assert synic.read_msr(Msr.HV_SIMP) == 0


def test_an_event_interrupts_once_until_it_is_cleared(machine):
    """TLFS "Event Flags"; checklist 8."""
    vp = with_synic(machine.child().vps[0])
    assert vp.synic.signal(2, 77) is True
    assert vp.synic.signal(2, 77) is False
    assert vp.partition.space.read(SIEF + 2 * 256 + 9, 1) == b"\x20"
    assert len(machine.events(EventDelivered)) == 1


# What is commonly done wrong.

def test_the_header_is_type_size_flags_sender(machine):
    """TLFS "HV_MESSAGE": size at 4, flags at 5; version 5.0C prints them the other way round."""
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"abc", 0x1234, 0x0A0B0C))
    assert vp.partition.space.read(SIM + 2 * 256, 16) == bytes.fromhex("34120000 03 00 0000 0c0b0a0000000000")


def test_the_type_is_written_last(machine, monkeypatch):
    """A guest that polls takes a slot with a type as complete."""
    vp = with_synic(machine.child().vps[0])
    written, write = [], machine.memory.write

    def watched(spa, data):
        written.append((spa, bytes(data)))
        write(spa, data)
    monkeypatch.setattr(machine.memory, "write", watched)
    vp.synic.post(2, note(b"abc", 5))
    page = vp.synic.message_page + 2 * 256
    assert [spa for spa, _ in written] == [page, page]
    assert written[0][1][:4] == bytes(4)
    assert written[1] == (page, (5).to_bytes(4, "little"))


def test_a_message_sent_at_once_is_the_same_as_one_that_was_queued(machine, monkeypatch):
    """Slot, type last, and interrupt."""
    queued, sent = (with_synic(machine.child().vps[0]) for _ in range(2))
    queued.synic.post(2, QueuedMessage(5, b"abc", 9))
    written, write = [], machine.memory.write
    monkeypatch.setattr(machine.memory, "write",
                        lambda spa, data: (written.append((spa, bytes(data))), write(spa, data)))
    assert sent.synic.post_now(2, 5, b"abc", 9)
    slots = [machine.memory.read(vp.synic.message_page + 2 * 256, 256) for vp in (queued, sent)]
    assert slots[0] == slots[1]
    assert written[-1] == (sent.synic.message_page + 2 * 256, (5).to_bytes(4, "little"))
    assert queued.apic.irr == sent.apic.irr != 0


@pytest.mark.parametrize("why", ["slot-in-use", "others-wait", "synic-off"])
def test_a_message_is_not_sent_at_once_before_others(machine, why):
    vp = with_synic(machine.child().vps[0])
    slot = vp.synic.message_page + 2 * 256
    if why == "synic-off":
        vp.synic.write_msr(Msr.HV_SCONTROL, 0)
    else:
        vp.synic.post(2, QueuedMessage(5, b"abc", 9))
    if why == "others-wait":
        vp.synic.post(2, QueuedMessage(6, b"", 9))
        machine.memory.write_u32(slot, 0)
    before = machine.memory.read(slot, 256)
    assert not vp.synic.post_now(2, 7, b"late", 9)
    assert machine.memory.read(slot, 256) == before


def test_pending_is_set_in_the_message_that_is_in_the_slot_already(machine):
    """TLFS "Message Delivery"; checklist 7. The rest of the slot stays as it is."""
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"one", 0x77, 0x99))
    before = slot(vp)
    vp.synic.post(2, note(b"two"))
    before.header.message_flags = 1
    assert slot(vp) == before


def test_pending_is_set_in_a_message_that_has_others_behind_it_from_the_start(machine):
    vp = machine.child().vps[0]
    for text in (b"one", b"two"):
        vp.synic.post(2, note(text))
    assert slot(with_synic(vp)).header.message_flags == 1


def test_eom_tries_all_sixteen_sints(machine):
    vp = with_synic(machine.child().vps[0])
    for sint in range(16):
        vp.synic.post(sint, note(b"one"))
        vp.synic.post(sint, note(b"two"))
        empty_slot(vp, sint)
    vp.synic.write_msr(Msr.HV_EOM, 0xFFFF_FFFF_FFFF_FFFF)       # any value
    assert [slot(vp, sint).payload[:3] for sint in range(16)] == [b"two"] * 16


def test_eom_without_anything_queued_does_nothing(machine):
    vp = with_synic(machine.child().vps[0])
    before = machine.memory.read(vp.synic.message_page, 4096)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert machine.memory.read(vp.synic.message_page, 4096) == before
    assert vp.apic.irr == 0


def test_without_eom_a_message_waits_for_the_next_one(machine):
    """The lost wake-up of a guest that forgets EOM: until somebody posts, or an EOI comes, nothing is tried."""
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"one"))
    vp.synic.post(2, note(b"two"))
    empty_slot(vp)
    assert slot(vp).header.message_type == 0
    vp.synic.post(2, note(b"three"))
    assert (slot(vp).payload[:3], slot(vp).header.message_flags) == (b"two", 1)


def test_an_eoi_of_another_vector_delivers_nothing(machine):
    vp = with_synic(machine.child().vps[0])
    vp.synic.post(2, note(b"one"))
    vp.synic.post(2, note(b"two"))
    vp.apic.acknowledge()
    vp.apic.accept(0x71)
    vp.apic.acknowledge()
    empty_slot(vp)
    vp.apic.eoi()
    assert slot(vp).header.message_type == 0
    vp.apic.eoi()
    assert slot(vp).payload[:3] == b"two"


def test_a_sint_that_gets_another_vector_waits_for_the_eoi_of_that_one(machine):
    vp = with_synic(machine.child().vps[0])
    heard = []
    vp.apic.hear_eoi = heard.append
    vp.synic.post(2, note(b"one"))
    vp.synic.post(2, note(b"two"))
    vp.synic.write_msr(Msr.HV_SINT2, 0x61)
    assert heard == [VECTOR, 0x61]
    vp.apic.accept(0x61)
    vp.apic.acknowledge()
    empty_slot(vp)
    vp.apic.eoi()
    assert slot(vp).payload[:3] == b"two"


@pytest.mark.parametrize("fields", [{"masked": 1}, {"polling": 1}], ids=["masked", "polling"])
def test_a_quiet_sint_queues_and_obeys_eom(machine, fields):
    vp = with_synic(machine.child().vps[0], **fields)
    for text in (b"one", b"two"):
        vp.synic.post(2, note(text))
    empty_slot(vp)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert (slot(vp).payload[:3], vp.apic.irr) == (b"two", 0)


def test_one_queue_for_all_senders_keeps_their_order(machine):
    """First in, first out for each VP and SINT, whoever sends: a port, a timer, an intercept."""
    vp = with_synic(machine.child().vps[0])
    kinds = [1, 0x80000010, 7, 0x80010000, 1]
    for kind in kinds:
        vp.synic.post(2, note(kind=kind))
    taken = []
    for _ in kinds:
        taken.append(slot(vp).header.message_type)
        empty_slot(vp)
        vp.synic.write_msr(Msr.HV_EOM, 0)
    assert taken == kinds


@pytest.mark.parametrize("off", [(Msr.HV_SCONTROL, 0), (Msr.HV_SIMP, SIM)], ids=["synic", "page"])
def test_what_comes_while_it_is_off_waits_until_it_is_on(machine, off):
    vp = with_synic(machine.child().vps[0])
    vp.synic.write_msr(*off)
    vp.synic.post(2, note(b"late"))
    assert not machine.events(MessageDelivered)
    vp.synic.write_msr(off[0], off[1] | 1)
    assert slot(vp).payload[:4] == b"late"


def test_the_page_keeps_its_contents_while_it_is_off_or_elsewhere(machine):
    """TLFS "GPA Overlay Pages": what lies beneath comes back unchanged; the page is the VP's, and zero after reset."""
    vp = with_synic(machine.child().vps[0])
    vp.partition.space.write(0x5000, b"mine")
    vp.synic.post(2, note(b"kept"))
    vp.synic.write_msr(Msr.HV_SIMP, 0x5001)
    assert HvMessage.parse(vp.partition.space.read(0x5200, 256)).payload[:4] == b"kept"
    vp.synic.write_msr(Msr.HV_SIMP, 0)
    assert vp.partition.space.read(0x5000, 4) == b"mine"
    vp.synic.write_msr(Msr.HV_SIMP, SIM | 1)
    assert slot(vp).payload[:4] == b"kept"
    vp.synic.reset()
    vp.synic.write_msr(Msr.HV_SIMP, SIM | 1)
    assert vp.partition.space.read(SIM, 4096) == bytes(4096)


def test_reset_puts_everything_back_and_returns_the_buffers(machine):
    vp = with_synic(machine.child().vps[0], auto_eoi=1)
    freed, followed = [], []
    vp.synic.on_auto_eoi = lambda: followed.append(vp.synic.auto_eoi_vectors)
    vp.synic.signal(2, 5)
    for n in range(3):
        vp.synic.post(2, QueuedMessage(1, b"", 0, lambda n=n: freed.append(n)))
    vp.synic.reset()
    assert freed == [0, 1, 2]
    assert followed == [frozenset()]
    assert [vp.synic.read_msr(Msr.HV_SINT0 + n) for n in range(16)] == [0x10000] * 16
    assert [vp.synic.read_msr(msr) for msr in (Msr.HV_SCONTROL, Msr.HV_SIMP, Msr.HV_SIEFP)] == [0, 0, 0]
    with_synic(vp)
    assert slot(vp).header.message_type == 0
    assert vp.partition.space.read(SIEF, 4096) == bytes(4096)


def test_reserved_bits_are_preserved(machine):
    synic = machine.child().vps[0].synic
    for msr, value in ((Msr.HV_SCONTROL, 0xFFFF_FFFF_FFFF_FFFF), (Msr.HV_SIMP, 0x3FFF), (Msr.HV_SIEFP, 0x4FFE),
                       (Msr.HV_SINT5, 0xFFFF_FFFF_FFFF_FFFF)):
        synic.write_msr(msr, value)
        assert synic.read_msr(msr) == value


def test_a_flag_that_was_cleared_interrupts_again(machine):
    """TLFS "Event Flags": signalled twice before it is cleared is one interrupt; checklist 8."""
    vp = with_synic(machine.child().vps[0])
    assert [vp.synic.signal(2, 2047), vp.synic.signal(2, 2047)] == [True, False]
    assert vp.apic.acknowledge() == VECTOR
    vp.apic.eoi()
    vp.partition.space.write(SIEF + 2 * 256 + 255, b"\0")
    assert vp.synic.signal(2, 2047)
    assert vp.apic.irr == 1 << VECTOR


def test_an_event_of_a_polling_sint_sets_its_flag_in_silence(machine):
    vp = with_synic(machine.child().vps[0], polling=1)
    assert vp.synic.signal(2, 0)
    assert (vp.partition.space.read(SIEF + 2 * 256, 1), vp.apic.irr) == (b"\1", 0)


@pytest.mark.parametrize("change", [(Msr.HV_SCONTROL, 0), (Msr.HV_SIEFP, 0), (Msr.HV_SINT2, 0x10052)],
                         ids=["synic-off", "page-off", "masked"])
def test_an_event_is_refused_by_a_synic_that_is_not_ready(machine, change):
    """Unlike a message, which is queued: TLFS "HvCallSignalEvent"."""
    vp = with_synic(machine.child().vps[0])
    vp.synic.write_msr(*change)
    with pytest.raises(HypercallError, match=r"^INVALID_SYNIC_STATE"):
        vp.synic.signal(2, 1)
    assert machine.memory.read(vp.synic.event_page, 4096) == bytes(4096)


def test_auto_eoi_is_recommended_against_where_the_processor_delivers():
    """TLFS "Implementation Recommendations": bit 9 of EAX."""
    assert [CpuidTable(0, virtualized).lookup(0x40000004, 0)[0] >> 9 & 1 for virtualized in (True, False)] == [1, 0]
