"""Sizes and places of the hypercall and SynIC layouts, as the TLFS prints them."""

import pytest

from hv.spec import hypercalls as h
from hv.spec import synic as s
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus

SIZES = [
    (h.CreatePartitionInput, 56), (h.GetPartitionPropertyInput, 16), (h.SetPartitionPropertyInput, 24),
    (h.GetNextChildPartitionInput, 16), (h.DepositMemoryInput, 8), (h.WithdrawMemoryInput, 16),
    (h.GetMemoryBalanceOutput, 16), (h.MapGpaPagesInput, 24), (h.UnmapGpaPagesInput, 24),
    (h.TranslateVirtualAddressInput, 32), (h.TranslateVirtualAddressOutput, 16), (h.ReadGpaInput, 32),
    (h.ReadGpaOutput, 24), (h.WriteGpaInput, 48), (h.CreateVpInput, 40), (h.DeleteVpInput, 16),
    (h.VpRegistersInput, 16), (h.RegisterName, 4), (h.RegisterValue, 16), (h.RegisterAssoc, 32),
    (h.AssertVirtualInterruptInput, 32), (h.InterruptEntry, 16), (h.MapDeviceInterruptInput, 72),
    (h.UnmapDeviceInterruptInput, 32), (h.AttachDeviceInput, 40), (h.DetachDeviceInput, 16), (h.CreatePortInput, 56),
    (h.DeletePortInput, 16), (h.ConnectPortInput, 72), (h.DisconnectPortInput, 16), (h.PostMessageInput, 256),
    (h.SignalEventInput, 8), (h.NotifyLongSpinWaitInput, 8), (s.HvMessageHeader, 16), (s.HvMessage, 256),
    (s.HvEventFlags, 256), (s.HvPortInfo, 24), (s.HvConnectionInfo, 32), (s.HvSegmentRegister, 16),
    (s.HvTableRegister, 16), (s.HvInterceptHeader, 40), (s.IoPortIntercept, 128), (s.MemoryIntercept, 80),
    (s.MsrIntercept, 64), (s.CpuidIntercept, 104), (s.ExceptionIntercept, 240), (s.HeaderOnlyIntercept, 40),
    (s.ApicEoiMessage, 8), (s.TimerMessage, 24),
]


@pytest.mark.parametrize(("layout", "size"), SIZES, ids=[layout.__name__ for layout, _ in SIZES])
def test_a_layout_has_the_size_of_the_document(layout, size):
    assert size == layout.SIZE


OFFSETS = [
    (h.CreateVpInput, "subnode_type", 15), (h.CreateVpInput, "flags", 32), (h.VpRegistersInput, "input_vtl", 12),
    (h.RegisterAssoc, "value", 16), (h.CreatePortInput, "connection_partition", 16),
    (h.CreatePortInput, "proximity_domain_info", 48), (h.ConnectPortInput, "port_partition", 16),
    (h.ConnectPortInput, "connection_info", 32), (h.PostMessageInput, "payload", 16),
    (h.MapDeviceInterruptInput, "target_vp_mask", 64), (h.AttachDeviceInput, "pf_rid", 36),
    (s.HvMessageHeader, "message_flags", 5), (s.IoPortIntercept, "instruction_bytes", 56),
    (s.IoPortIntercept, "rdi", 120),
    (s.MemoryIntercept, "gpa", 56), (s.ExceptionIntercept, "registers", 112), (s.HvInterceptHeader, "rflags", 32),
    (s.HvPortInfo, "base_flag_number", 16), (s.HvTableRegister, "base", 8),
]


@pytest.mark.parametrize(("layout", "field", "offset"), OFFSETS, ids=[f"{a.__name__}.{b}" for a, b, _ in OFFSETS])
def test_a_field_stands_where_the_document_says(layout, field, offset):
    assert layout.offset_of(field) == offset


def test_the_control_word_is_the_documents():
    """TLFS "Hypercall Inputs": the vectors of a fast SignalEvent and of a rep call."""
    assert h.HypercallControl(call_code=h.HypercallCode.SIGNAL_EVENT, fast=1).raw == 0x1005D
    assert h.HypercallControl(call_code=0x50, rep_count=3, rep_start=1).raw == 0x0001_0003_0000_0050
    assert h.HypercallControl.RESERVED == 0xF000_F000_7800_0000
    assert h.HypercallResult(status=5, reps_complete=1).raw == 0x0000_0001_0000_0005


def test_codes_the_specification_fixes():
    code = h.HypercallCode
    assert (code.CREATE_PARTITION, code.POST_MESSAGE, code.ATTACH_DEVICE) == (0x40, 0x5C, 0x82)
    assert (HvStatus.INVALID_VP_INDEX, HvStatus.NO_RESOURCES, HvStatus.UNKNOWN_REGISTER_NAME) == (0xE, 0x1D, 0x87)
    assert (HvRegisterName.RIP, HvRegisterName.TR, HvRegisterName.SINT15) == (0x20010, 0x60007, 0xA000F)
