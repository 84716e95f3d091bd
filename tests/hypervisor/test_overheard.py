"""Who looks on while a run is repeated hears what each handler decides, and nobody else is asked."""

from hv.hypervisor import run
from hv.hypervisor.run import overheard
from hv.hypervisor.verdicts import Advance, Inject
from tests.guest_runner import run_guest


def decided(source):
    heard = []
    with overheard(lambda vp, exit, verdict: heard.append((exit.reason.name, verdict))):
        run_guest(source)
    return heard


def test_what_a_handler_answers_is_heard_before_it_is_obeyed():
    reason, verdict = decided("xor eax, eax; cpuid; hlt")[0]
    assert (reason, type(verdict)) == ("CPUID", Advance)


def test_a_fault_that_a_handler_raises_is_heard_as_the_injection_that_it_becomes():
    heard = decided("mov ecx, 0x7fff0000; rdmsr; hlt")
    assert ("RDMSR", Inject(13, 0, None)) in heard


def test_afterwards_the_handlers_are_those_of_before():
    before = run._BY_REASON[:]
    decided("xor eax, eax; cpuid; hlt")
    assert before == run._BY_REASON
