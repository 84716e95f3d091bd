"""Parameters in registers: XMM input and output, lists and variable headers; TLFS "XMM Fast Hypercall Input",
"XMM Fast Hypercall Output". The block is RDX, R8, XMM0..XMM5: 112 bytes."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

import pytest

from hv.hypervisor.hypercalls import registry
from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES
from hv.machine.faults import GuestFault
from hv.spec.cpuid import CpuidLeaf, HvFeatures, HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.layout import Layout, raw, u64
from tests.hypervisor.fakes import Machine

SUCCESS, WRONG = HvStatus.SUCCESS, HvStatus.INVALID_HYPERCALL_INPUT
BLOCK = bytes(range(0x10, 0x10 + 112))
CODE = C.ACKNOWLEDGE_DEVICE_PAGE_REQUEST    # a code that nothing else has


class Input8(Layout):
    value: u64


class Input40(Layout):
    data: raw[40]


class Input112(Layout):
    data: raw[112]


class Input120(Layout):
    data: raw[120]


class Output8(Layout):
    value: u64


class Output24(Layout):
    data: raw[24]


class Output64(Layout):
    data: raw[64]


class Bench(Machine):
    """A child whose registers hold BLOCK; `declare` gives CODE a shape, and *seen* what its handler got."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.vp = self.child().vps[0]
        self.regs = self.vp.regs
        self.load(BLOCK)

    def load(self, block):
        self.regs.rdx, self.regs.r8 = (int.from_bytes(block[at : at + 8], "little") for at in (0, 8))
        for n in range(6):
            self.regs.write_xmm(n, block[16 + 16 * n : 32 + 16 * n])

    def block(self):
        general = self.regs.rdx.to_bytes(8, "little") + self.regs.r8.to_bytes(8, "little")
        return general + b"".join(self.regs.read_xmm(n) for n in range(6))

    def declare(self, answer=None, **shape):
        """CODE takes and gives what *shape* says; it answers *answer*, each rep of it."""
        registry.HYPERCALLS.pop(int(CODE), None)

        def handler(call, *parameters):
            self.seen.append(parameters)
            if isinstance(parameters[-1] if parameters else None, registry.Reps):
                for element in parameters[-1]:
                    self.seen.append(element)
                    if answer is not None:
                        parameters[-1].answer(answer)
                return None
            return answer
        registry.hypercall(CODE, **shape)(handler)

    def call(self, **fields):
        word = HypercallControl(call_code=CODE, fast=1, **fields).raw
        result = HypercallResult(hypercall(self.hypervisor, self.vp, word, self.regs.rdx, self.regs.r8))
        return HvStatus(result.status), result.reps_complete


@pytest.fixture
def bench():
    assert int(CODE) not in registry.HYPERCALLS
    yield Bench()
    registry.HYPERCALLS.pop(int(CODE), None)


def test_input_goes_on_in_xmm0(bench):
    bench.declare(input=Input40)
    assert bench.call() == (SUCCESS, 0)
    assert bench.seen[0][0].pack() == BLOCK[:40]
    assert bench.block() == BLOCK


@pytest.mark.parametrize(("input", "status"), [(Input112, SUCCESS), (Input120, WRONG)])
def test_input_has_112_bytes_at_most(bench, input, status):
    bench.declare(input=input)
    assert bench.call()[0] == status
    assert [seen[0].data for seen in bench.seen] == ([BLOCK] if status == SUCCESS else [])


@pytest.mark.parametrize(("input", "start"), [(None, 0), (Input8, 16), (Input40, 48)])
def test_output_begins_at_the_next_multiple_of_16(bench, input, start):
    """8 bytes of input are followed by output in XMM0; without input the output begins in RDX."""
    bench.declare(input=input, output=Output24, answer=Output24(data=b"\xaa" * 24))
    assert bench.call() == (SUCCESS, 0)
    assert bench.block() == BLOCK[:start] + b"\xaa" * 24 + BLOCK[start + 24 :]


@pytest.mark.parametrize(("input", "output", "status"), [
    (Input40, Output64, SUCCESS), (Input112, Output8, WRONG), (Input112, None, SUCCESS)])
def test_input_and_output_have_112_bytes_together(bench, input, output, status):
    bench.declare(input=input, output=output, answer=output(data=b"\xaa" * 64) if output is Output64 else None)
    assert bench.call()[0] == status
    assert bench.block() == (BLOCK[:48] + b"\xaa" * 64 if output is Output64 else BLOCK)


def test_output_without_the_privilege_is_no_form_of_the_call(bench):
    bench.vp.partition.set_privileges(CHILD_PRIVILEGES & ~int(HvPrivilege.FAST_HYPERCALL_OUTPUT))
    bench.declare(input=Input8, output=Output8, answer=Output8(value=1))
    assert bench.call()[0] == WRONG
    bench.declare(input=Input40)
    assert bench.call()[0] == SUCCESS
    assert bench.block() == BLOCK


def test_a_refused_call_writes_no_output(bench):
    def refuse(call, input):
        raise registry.HypercallError(HvStatus.INVALID_PARAMETER)
    registry.hypercall(CODE, input=Input8, output=Output8)(refuse)
    assert bench.call()[0] == HvStatus.INVALID_PARAMETER
    assert bench.block() == BLOCK


def test_a_list_stands_behind_its_header_and_its_answers_behind_both(bench):
    """A header of 8 and three elements of 8: 32 bytes of input, so the answers begin in XMM1."""
    bench.declare(input=Input8, rep_input=Input8, rep_output=Output8, answer=Output8(value=0x77))
    assert bench.call(rep_count=3) == (SUCCESS, 3)
    assert [element.pack() for element in bench.seen[1:]] == [BLOCK[8:16], BLOCK[16:24], BLOCK[24:32]]
    assert bench.block() == BLOCK[:32] + (0x77).to_bytes(8, "little") * 3 + BLOCK[56:]


def test_a_list_that_goes_on_writes_the_answers_that_were_left(bench):
    bench.declare(input=Input8, rep_input=Input8, rep_output=Output8, answer=Output8(value=0x77))
    assert bench.call(rep_count=3, rep_start=2) == (SUCCESS, 3)
    assert bench.block() == BLOCK[:48] + (0x77).to_bytes(8, "little") + BLOCK[56:]


@pytest.mark.parametrize(("count", "status"), [(13, SUCCESS), (14, WRONG)])
def test_a_list_fills_the_registers_and_no_more(bench, count, status):
    bench.declare(input=Input8, rep_input=Input8)
    assert bench.call(rep_count=count) == (status, count if status == SUCCESS else 0)


@pytest.mark.parametrize(("units", "status"), [(0, SUCCESS), (13, SUCCESS), (14, WRONG)])
def test_a_variable_header_goes_on_in_the_registers(bench, units, status):
    bench.declare(input=Input8, variable=True)
    assert bench.call(variable_header_size=units)[0] == status
    if status == SUCCESS:
        assert [word.to_bytes(8, "little") for word in bench.seen[0][1]] == \
            [BLOCK[8 * n : 8 * n + 8] for n in range(1, units + 1)]


def em(regs):
    regs.cr0 |= 1 << 2


def ts(regs):
    regs.cr0 |= 1 << 3


def no_osfxsr(regs):
    regs.cr4 &= ~(1 << 9)


@pytest.mark.parametrize("wide", [True, False], ids=["64-bit", "32-bit"])
@pytest.mark.parametrize("unusable", [em, ts, no_osfxsr], ids=lambda rule: rule.__name__)
def test_xmm_registers_that_cannot_be_used_are_an_undefined_instruction(bench, unusable, wide):
    """For a call that wants them; one that needs the two parameter registers only is as good as ever."""
    unusable(bench.regs)
    bench.regs.is_kernel_64 = wide
    bench.declare(input=Input40)
    with pytest.raises(GuestFault) as caught:
        bench.call()
    assert caught.value.vector == 6
    bench.declare(input=Input8)
    assert bench.call()[0] == SUCCESS
    if wide:
        bench.declare(input=Input8, output=Output8, answer=Output8(value=1))
        with pytest.raises(GuestFault):
            bench.call()


@pytest.mark.parametrize(("input", "status"), [(Input8, SUCCESS), (Input40, SUCCESS), (Input112, SUCCESS),
                                               (Input120, WRONG)])
def test_32_bit_callers_have_the_same_112_bytes_of_input(bench, input, status):
    """TLFS "XMM Fast Hypercall Input": EBX:ECX and EDI:ESI, then XMM0..XMM5."""
    bench.regs.is_kernel_64 = False
    bench.declare(input=input)
    assert bench.call()[0] == status
    assert [seen[0].pack() for seen in bench.seen] == ([BLOCK[: input.SIZE]] if status == SUCCESS else [])
    assert bench.block() == BLOCK


def test_32_bit_callers_have_lists_and_variable_headers_in_registers(bench):
    bench.regs.is_kernel_64 = False
    bench.declare(input=Input8, rep_input=Input8)
    assert bench.call(rep_count=13) == (SUCCESS, 13)
    bench.seen.clear()
    bench.declare(input=Input8, variable=True)
    assert bench.call(variable_header_size=5)[0] == SUCCESS
    assert bench.seen[0][1][4].to_bytes(8, "little") == BLOCK[40:48]


@pytest.mark.parametrize("shape", [{"input": Input8, "output": Output8}, {"output": Output8},
                                   {"input": Input8, "rep_output": Output8}], ids=["output", "output alone", "list"])
def test_32_bit_callers_get_no_output_in_registers(bench, shape):
    """TLFS "XMM Fast Hypercall Output": only 64-bit callers do."""
    bench.regs.is_kernel_64 = False
    bench.declare(answer=Output8(value=1), **shape)
    assert bench.call(rep_count=int("rep_output" in shape))[0] == WRONG
    assert bench.block() == BLOCK
    assert not bench.seen


def test_the_forms_are_offered_in_cpuid(bench):
    """TLFS "Feature and Interface Discovery"."""
    _, ebx, _, edx = bench.vp.partition.cpuid.lookup(CpuidLeaf.HV_FEATURES, 0)
    assert edx & HvFeatures.XMM_REGISTERS_FOR_FAST_HYPERCALL_AVAILABLE
    assert edx & HvFeatures.FAST_HYPERCALL_OUTPUT_AVAILABLE
    assert ebx << 32 & HvPrivilege.FAST_HYPERCALL_OUTPUT
