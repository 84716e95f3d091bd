"""The x87 and SSE registers in a context: what is written there is what a guest's instructions see."""

import pytest

from hv.machine import context
from hv.machine.floating_point import FloatingPoint
from hv.spec.fxsave import FxSaveImage, X87Register
from tests.vmx.vcpu_box import VcpuBox

ONE = X87Register(mantissa=1 << 63, sign_exponent=0x3FFF).pack()[:10]            # 1.0
ONE_AND_THREE_QUARTERS = X87Register(mantissa=7 << 61, sign_exponent=0x3FFF).pack()[:10]
TWO_AND_A_HALF = 0x4004_0000_0000_0000                                             # as a double
DATA = 0x9000


def a_state():
    return FloatingPoint(memoryview(bytearray(context.SIZE)))


def test_the_image_has_512_bytes_at_the_manuals_places():
    assert FxSaveImage.SIZE == 512
    places = {"status": 2, "tag": 4, "opcode": 6, "instruction_pointer": 8, "data_pointer": 16, "mxcsr": 24,
              "mxcsr_mask": 28, "st": 32, "xmm": 160}
    assert {name: FxSaveImage.offset_of(name) for name in places} == places


def test_what_is_loaded_is_saved():
    image = FxSaveImage(control=0x27F, status=0x3841, tag=0x81, opcode=0x7FF, instruction_pointer=1 << 47,
                        data_pointer=0x1234, mxcsr=0x7F80, mxcsr_mask=0xFFFF,
                        st=tuple(X87Register(mantissa=n << 60, sign_exponent=n) for n in range(8)),
                        xmm=tuple(range(32)))
    fp = a_state()
    fp.load(image)
    assert fp.save() == image


def test_st_is_counted_from_the_top_and_the_tag_by_number():
    fp = a_state()
    fp.status, fp.tag = 5 << 11, 1 << 6
    fp.set_st(1, b"0123456789")
    fp.status = 0
    assert (fp.st(6), fp.tag) == (b"0123456789", 1 << 6)


@pytest.fixture
def box():
    made = VcpuBox()
    yield made
    made.close()


def run(box, vcpu, source):
    box.exits.clear()
    box.put(source + "; hlt", 64)
    box.go(vcpu)
    assert len(box.exits) == 1


def test_a_new_processor_masks_every_exception(box):
    """SDM "Processor States Following Power-up, Reset, or INIT": FCW 0040H, FSW 0, FTW 5555H, MXCSR 1F80H."""
    fp = box.engine.new_state().fp
    assert (fp.control, fp.status, fp.tag, fp.mxcsr) == (0x40, 0, 0xFF, 0x1F80)


@pytest.mark.parametrize(("control", "whole"), [(0x37F, 2), (0xF7F, 1)], ids=["nearest", "towards-zero"])
def test_x87_code_rounds_as_the_control_word_that_was_written_says(box, control, whole):
    vcpu = box.vcpu()
    fp = vcpu.state.fp
    fp.control, fp.tag = control, 1
    fp.set_st(0, ONE_AND_THREE_QUARTERS)
    run(box, vcpu, f"fistp qword ptr [{DATA:#x}]")
    assert box.memory.read_u64(DATA) == whole
    assert (fp.tag, fp.status & 0x3800) == (0, 1 << 11)         # popped


@pytest.mark.parametrize(("mxcsr", "whole"), [(0x1F80, 2), (0x5F80, 3)], ids=["nearest", "up"])
def test_sse_code_rounds_as_the_mxcsr_that_was_written_says(box, mxcsr, whole):
    vcpu = box.vcpu()
    vcpu.state.fp.mxcsr = mxcsr
    vcpu.state.fp.set_xmm(15, TWO_AND_A_HALF.to_bytes(16, "little"))
    run(box, vcpu, "cvtsd2si rax, xmm15")
    assert vcpu.state.rax == whole


def test_what_a_guest_computed_is_read(box):
    vcpu = box.vcpu()
    run(box, vcpu, "fninit; fld1; fldz; movq xmm3, rsp")
    fp = vcpu.state.fp
    assert (fp.control, fp.status >> 11 & 7, fp.tag) == (0x37F, 6, 0b1100_0000)
    assert (fp.st(0), fp.st(1)) == (bytes(10), ONE)
    assert fp.xmm(3) == vcpu.state.rsp.to_bytes(16, "little")


def test_the_image_is_what_fxsave_writes_and_fxrstor_reads(box):
    vcpu = box.vcpu()
    run(box, vcpu, f"fninit; fld1; fldpi; movq xmm9, rsp; mov edi, {DATA:#x}; .byte 0x48, 0x0F, 0xAE, 0x07")
    written = FxSaveImage.parse(box.memory.read(DATA, FxSaveImage.SIZE))
    saved = vcpu.state.fp.save()
    saved.unused = written.unused
    assert saved == written
    written.status, written.tag, written.instruction_pointer = 3 << 11, 0x18, 0    # which the engine does not load
    box.memory.write(DATA, written.pack())
    other = box.vcpu()
    run(box, other, f"mov edi, {DATA:#x}; .byte 0x48, 0x0F, 0xAE, 0x0F")
    restored = other.state.fp.save()
    restored.unused = written.unused
    assert restored == written


def test_a_processor_that_is_gone_has_no_registers(box):
    vcpu = box.vcpu()
    fp = vcpu.state.fp
    box.engine.drop_state(vcpu.state)
    with pytest.raises(ValueError, match="released"):
        fp.xmm(0)
