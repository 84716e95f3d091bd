"""The x87 and SSE registers by name; TLFS "HV_X64_FP_REGISTER", "HV_X64_FP_CONTROL_STATUS_REGISTER" and the like.

FpMmx0 is ST(0), as in the image of FXSAVE; the tag is that image's too. MMX registers are the mantissas, with TOP 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.registers.table import Get, Put, provide
from hv.machine.floating_point import X87_SIZE
from hv.spec.fxsave import MXCSR_MASK
from hv.spec.hv_registers import FpControlStatusRegister, HvRegisterName, XmmControlStatusRegister
from hv.spec.hv_status import HvStatus

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

N = HvRegisterName


def _xmm(number: int) -> tuple[Get, Put]:
    return lambda vp: vp.regs.fp.xmm(number), lambda vp, value: vp.regs.fp.set_xmm(number, value)


def _st(number: int) -> tuple[Get, Put]:
    return lambda vp: vp.regs.fp.st(number), lambda vp, value: vp.regs.fp.set_st(number, value[:X87_SIZE])


def _get_fp_control(vp: VirtualProcessor) -> bytes:
    fp = vp.regs.fp
    return FpControlStatusRegister(fp_control=fp.control, fp_status=fp.status, fp_tag=fp.tag, last_fp_op=fp.opcode,
                                   last_fp_rip=fp.instruction_pointer).pack()


def _set_fp_control(vp: VirtualProcessor, value: bytes) -> None:
    register, fp = FpControlStatusRegister.parse(value), vp.regs.fp
    fp.control, fp.status, fp.tag = register.fp_control, register.fp_status, register.fp_tag
    fp.opcode, fp.instruction_pointer = register.last_fp_op, register.last_fp_rip


def _get_xmm_control(vp: VirtualProcessor) -> bytes:
    fp = vp.regs.fp
    return XmmControlStatusRegister(last_fp_rdp=fp.data_pointer, xmm_status_control=fp.mxcsr,
                                    xmm_status_control_mask=MXCSR_MASK).pack()


def _set_xmm_control(vp: VirtualProcessor, value: bytes) -> None:
    """The mask is the processor's own: what is written there is not looked at."""
    register, fp = XmmControlStatusRegister.parse(value), vp.regs.fp
    if register.xmm_status_control & ~MXCSR_MASK:
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"MXCSR {register.xmm_status_control:#x}: reserved bits")
    fp.data_pointer, fp.mxcsr = register.last_fp_rdp, register.xmm_status_control


for _n in range(16):
    provide(N.XMM0 + _n, *_xmm(_n))
for _n in range(8):
    provide(N.FP_MMX0 + _n, *_st(_n))
provide(N.FP_CONTROL_STATUS, _get_fp_control, _set_fp_control)
provide(N.XMM_CONTROL_STATUS, _get_xmm_control, _set_xmm_control)
