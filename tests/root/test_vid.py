"""VID: the message page of root, and who gets what is in it."""

import pytest

from hv.root.processor import RootProcessor
from hv.root.vid import INTERCEPT_VECTOR, Vid
from hv.root.winhv import RootMemory
from hv.spec.msrs import HvSynicSint, Msr
from hv.spec.synic import MESSAGE_PENDING, HvMessage, HvMessageHeader, HvMessageType

PAGE = 3
SLOT = PAGE << 12


class Bench:
    """Root's processor as a bytearray and a list of MSR writes; *waiting* messages come with each EOM."""

    def __init__(self):
        self.ram, self.msrs, self.waiting, self.got, self.threads = bytearray(0x8000), [], [], [], []
        memory = RootMemory(lambda gpa, size: bytes(self.ram[gpa : gpa + size]), self.store, [PAGE, 5])
        self.vid = Vid(RootProcessor(lambda *call: 0, self.wrmsr, lambda: 0, memory, self.connect,
                                     lambda *thread: self.threads.append(thread)))
        self.vid.register(2, lambda message: self.got.append((2, message.payload[:1])))

    def store(self, gpa, data):
        self.ram[gpa : gpa + len(data)] = data

    def connect(self, vector, handler):
        assert vector == INTERCEPT_VECTOR
        self.interrupt = handler

    def wrmsr(self, index, value):
        self.msrs.append((index, value))
        if index == Msr.HV_EOM and self.waiting:
            self.put(*self.waiting.pop(0))

    def put(self, sender, payload, kind=HvMessageType.UNMAPPED_GPA):
        header = HvMessageHeader(message_type=kind, payload_size=len(payload), sender=sender,
                                 message_flags=MESSAGE_PENDING if self.waiting else 0)
        self.store(SLOT, header.pack() + payload)


def test_it_switches_roots_synic_on_message_page_before_control():
    """TLFS "SynIC": a message can come as soon as SCONTROL is enabled."""
    assert Bench().msrs == [(Msr.HV_SIMP, PAGE << 12 | 1), (Msr.HV_SINT0, HvSynicSint(vector=INTERCEPT_VECTOR).raw),
                            (Msr.HV_SCONTROL, 1)]


def test_a_message_goes_to_who_registered_for_its_sender():
    bench = Bench()
    bench.vid.register(3, lambda message: bench.got.append((3, message.payload[:1])))
    bench.put(3, b"x")
    bench.interrupt()
    assert bench.got == [(3, b"x")]


def test_the_slot_is_free_before_the_message_is_handled():
    """The handler may let the VP run on, and its next intercept needs the slot."""
    bench = Bench()
    seen = []
    bench.vid.register(2, lambda message: seen.append(bytes(bench.ram[SLOT : SLOT + 4])))
    bench.put(2, b"x")
    bench.interrupt()
    assert seen == [bytes(4)]


def test_eom_is_written_only_when_another_message_waits_and_all_are_taken():
    bench = Bench()
    bench.waiting = [(2, b"b"), (2, b"c")]
    bench.put(2, b"a")
    bench.interrupt()
    assert bench.got == [(2, b"a"), (2, b"b"), (2, b"c")]
    assert [index for index, _ in bench.msrs].count(Msr.HV_EOM) == 2


def test_a_spurious_interrupt_does_nothing():
    bench = Bench()
    bench.interrupt()
    assert bench.got == []
    assert len(bench.msrs) == 3


@pytest.mark.parametrize("sender", [2, 9])
def test_a_message_of_nobody_is_dropped(sender):
    bench = Bench()
    bench.vid.unregister(2)
    bench.vid.unregister(2)                         # once more does no harm
    bench.put(sender, b"x")
    bench.interrupt()
    assert bench.got == []
    assert not any(bench.ram[SLOT : SLOT + 4])


def test_the_handler_gets_the_message_as_it_was_sent():
    bench = Bench()
    messages = []
    bench.vid.register(2, messages.append)
    bench.put(2, b"payload", HvMessageType.X64_IO_PORT_INTERCEPT)
    bench.interrupt()
    assert isinstance(messages[0], HvMessage)
    assert (messages[0].header.message_type, messages[0].header.payload_size, messages[0].payload[:7]) == (
        HvMessageType.X64_IO_PORT_INTERCEPT, 7, b"payload")
