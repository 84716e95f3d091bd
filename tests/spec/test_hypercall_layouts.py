"""Sizes and places of the hypercall and SynIC layouts, as the TLFS prints them."""

import pytest

from hv.spec import synic as s
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.devices import (
    AttachDeviceDomainInput,
    AttachDeviceInput,
    ConfigureDeviceDomainInput,
    CreateDeviceDomainInput,
    DetachDeviceDomainInput,
    DetachDeviceInput,
    DeviceDomainInput,
    FlushDeviceDomainInput,
    GetIommuCapabilitiesInput,
    GetIommuCapabilitiesOutput,
    GetLogicalDevicePropertyInput,
    GetLogicalDevicePropertyOutput,
    InputDeviceDomain,
    MapDeviceGpaPagesInput,
    UnmapDeviceGpaPagesInput,
)
from hv.spec.hypercalls.interrupts import (
    AssertDeviceInterruptInput,
    AssertDeviceInterruptOutput,
    AssertVirtualInterruptInput,
    ClearVirtualInterruptInput,
    DeviceInterruptTarget,
    InterruptEntry,
    MapDeviceInterruptInput,
    RetargetDeviceInterruptInput,
    UnmapDeviceInterruptInput,
)
from hv.spec.hypercalls.ipis import SendSyntheticClusterIpiExInput, SendSyntheticClusterIpiInput
from hv.spec.hypercalls.memory import (
    DepositMemoryInput,
    GetMemoryBalanceOutput,
    MapGpaPagesInput,
    ReadGpaInput,
    ReadGpaOutput,
    TranslateVirtualAddressInput,
    TranslateVirtualAddressOutput,
    UnmapGpaPagesInput,
    WithdrawMemoryInput,
    WriteGpaInput,
)
from hv.spec.hypercalls.messages import (
    PostMessageDirectInput,
    PostMessageInput,
    SignalEventDirectInput,
    SignalEventDirectOutput,
    SignalEventInput,
)
from hv.spec.hypercalls.partitions import (
    CreatePartitionInput,
    GetNextChildPartitionInput,
    GetPartitionPropertyInput,
    SetPartitionPropertyInput,
)
from hv.spec.hypercalls.ports import (
    ConnectPortInput,
    ConnectPortV1Input,
    CreatePortInput,
    DeletePortInput,
    DisconnectPortInput,
    GetPortPropertyInput,
    SetPortPropertyInput,
)
from hv.spec.hypercalls.registers import RegisterAssoc, RegisterName, RegisterValue, VpRegistersInput
from hv.spec.hypercalls.tlb import (
    FlushVirtualAddressExInput,
    FlushVirtualAddressInput,
    GvaRange,
    SwitchVirtualAddressSpaceInput,
)
from hv.spec.hypercalls.vps import (
    ApicId,
    CreateVpInput,
    DeleteVpInput,
    GetVpIndexFromApicIdInput,
    HvInitialVpContext,
    NotifyLongSpinWaitInput,
    StartVirtualProcessorInput,
    VpIndex,
)

SIZES = [
    (SendSyntheticClusterIpiInput, 16), (SendSyntheticClusterIpiExInput, 24), (FlushVirtualAddressInput, 24),
    (FlushVirtualAddressExInput, 32), (SwitchVirtualAddressSpaceInput, 8), (GvaRange, 8),
    (CreatePartitionInput, 56), (GetPartitionPropertyInput, 16), (SetPartitionPropertyInput, 24),
    (GetNextChildPartitionInput, 16), (DepositMemoryInput, 8), (WithdrawMemoryInput, 16),
    (GetMemoryBalanceOutput, 16), (MapGpaPagesInput, 24), (UnmapGpaPagesInput, 24),
    (TranslateVirtualAddressInput, 32), (TranslateVirtualAddressOutput, 16), (ReadGpaInput, 32),
    (ReadGpaOutput, 24), (WriteGpaInput, 48), (CreateVpInput, 40), (DeleteVpInput, 16),
    (HvInitialVpContext, 224), (StartVirtualProcessorInput, 240), (GetVpIndexFromApicIdInput, 16), (ApicId, 4),
    (VpIndex, 4),
    (VpRegistersInput, 16), (RegisterName, 4), (RegisterValue, 16), (RegisterAssoc, 32),
    (AssertVirtualInterruptInput, 32), (ClearVirtualInterruptInput, 8), (InterruptEntry, 16),
    (DeviceInterruptTarget, 16), (RetargetDeviceInterruptInput, 56),
    (AssertDeviceInterruptInput, 32), (AssertDeviceInterruptOutput, 24), (MapDeviceInterruptInput, 72),
    (UnmapDeviceInterruptInput, 32), (AttachDeviceInput, 40), (DetachDeviceInput, 16), (CreatePortInput, 56),
    (InputDeviceDomain, 24), (CreateDeviceDomainInput, 32), (DeviceDomainInput, 24), (AttachDeviceDomainInput, 32),
    (DetachDeviceDomainInput, 16), (MapDeviceGpaPagesInput, 40), (UnmapDeviceGpaPagesInput, 32),
    (ConfigureDeviceDomainInput, 40), (FlushDeviceDomainInput, 32), (GetIommuCapabilitiesInput, 16),
    (GetIommuCapabilitiesOutput, 24), (GetLogicalDevicePropertyInput, 24), (GetLogicalDevicePropertyOutput, 16),
    (DeletePortInput, 16), (ConnectPortInput, 72), (DisconnectPortInput, 16), (PostMessageInput, 256),
    (SignalEventInput, 8), (PostMessageDirectInput, 280), (SignalEventDirectInput, 16), (SignalEventDirectOutput, 8),
    (ConnectPortV1Input, 56), (GetPortPropertyInput, 24), (SetPortPropertyInput, 32), (s.HvMonitorPortInfo, 24),
    (NotifyLongSpinWaitInput, 8), (s.HvMessageHeader, 16), (s.HvMessage, 256),
    (s.HvEventFlags, 256), (s.HvPortInfo, 24), (s.HvConnectionInfo, 32), (s.HvSegmentRegister, 16),
    (s.HvTableRegister, 16), (s.HvInterceptHeader, 40), (s.IoPortIntercept, 128), (s.MemoryIntercept, 80),
    (s.MsrIntercept, 64), (s.CpuidIntercept, 104), (s.ExceptionIntercept, 240), (s.HeaderOnlyIntercept, 40),
    (s.ApicEoiMessage, 8), (s.TimerMessage, 24),
]


@pytest.mark.parametrize(("layout", "size"), SIZES, ids=[layout.__name__ for layout, _ in SIZES])
def test_a_layout_has_the_size_of_the_document(layout, size):
    assert size == layout.SIZE


OFFSETS = [
    (HvInitialVpContext, "cs", 24), (HvInitialVpContext, "ss", 104), (HvInitialVpContext, "tr", 120),
    (HvInitialVpContext, "ldtr", 136), (HvInitialVpContext, "idtr", 152), (HvInitialVpContext, "gdtr", 168),
    (HvInitialVpContext, "efer", 184), (HvInitialVpContext, "cr3", 200), (HvInitialVpContext, "pat", 216),
    (StartVirtualProcessorInput, "target_vtl", 12), (StartVirtualProcessorInput, "context", 16),
    (CreateVpInput, "subnode_type", 15), (CreateVpInput, "flags", 32), (VpRegistersInput, "input_vtl", 12),
    (RegisterAssoc, "value", 16), (CreatePortInput, "connection_partition", 16),
    (CreatePortInput, "proximity_domain_info", 48), (ConnectPortInput, "port_partition", 16),
    (ConnectPortInput, "connection_info", 32), (ConnectPortV1Input, "gpa", 40),
    (GetPortPropertyInput, "property_code", 16),
    (SetPortPropertyInput, "property_value", 24), (PostMessageDirectInput, "sint", 16),
    (PostMessageDirectInput, "message", 20), (SignalEventDirectInput, "flag_number", 14),
    (PostMessageInput, "payload", 16),
    (MapDeviceInterruptInput, "target", 56),
    (RetargetDeviceInterruptInput, "target", 40), (InputDeviceDomain, "domain_id", 16),
    (CreateDeviceDomainInput, "create_flags", 24), (AttachDeviceDomainInput, "device_id", 24),
    (MapDeviceGpaPagesInput, "device_map_flags", 28), (MapDeviceGpaPagesInput, "device_va_base", 32),
    (ConfigureDeviceDomainInput, "page_table_root", 32), (GetIommuCapabilitiesOutput, "max_iova_width", 6),
    (GetIommuCapabilitiesOutput, "max_pasid_width", 7), (GetLogicalDevicePropertyInput, "logical_property_code", 16),
    (AttachDeviceInput, "pf_rid", 36),
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
    assert HypercallControl(call_code=HypercallCode.SIGNAL_EVENT, fast=1).raw == 0x1005D
    assert HypercallControl(call_code=0x50, rep_count=3, rep_start=1).raw == 0x0001_0003_0000_0050
    assert HypercallControl.RESERVED == 0xF000_F000_7800_0000
    assert HypercallResult(status=5, reps_complete=1).raw == 0x0000_0001_0000_0005


def test_codes_the_specification_fixes():
    code = HypercallCode
    assert (code.CREATE_PARTITION, code.POST_MESSAGE, code.ATTACH_DEVICE) == (0x40, 0x5C, 0x82)
    assert (HvStatus.INVALID_VP_INDEX, HvStatus.NO_RESOURCES, HvStatus.UNKNOWN_REGISTER_NAME) == (0xE, 0x1D, 0x87)
    assert (HvRegisterName.RIP, HvRegisterName.TR, HvRegisterName.SINT15) == (0x20010, 0x60007, 0xA000F)
