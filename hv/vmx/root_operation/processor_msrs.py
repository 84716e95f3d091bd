"""RDMSR and WRMSR of a logical processor in VMX root operation, at CPL 0: what no VM exit decides about.

SDM volume 4. The MSR areas of VM entry and VM exit use the same registers by the same rules.
"""

from __future__ import annotations

from hv.machine import msrs
from hv.machine.clock import VirtualClock
from hv.machine.state import ProcessorState
from hv.spec.msrs import Msr
from hv.vmx.root_operation.operation import VmxOperation

_TSC, _U64 = int(Msr.TSC), (1 << 64) - 1


class LogicalProcessorMsrs:
    """The registers of *state*, the capability MSRs and IA32_FEATURE_CONTROL of *operation*, and the TSC.

    # Simplified: the counter runs with the machine's clock and cannot be set: WRMSR of it is accepted and ignored.
    """

    def __init__(self, state: ProcessorState, operation: VmxOperation, clock: VirtualClock) -> None:
        self._state, self._operation, self._clock = state, operation, clock

    def read(self, index: int) -> int:
        """What RDMSR gives; GuestFault(13, 0)."""
        if index == _TSC:
            return self._clock.tsc & _U64
        value = self._operation.read_msr(index)
        return msrs.read_msr(self._state, index) if value is None else value

    def write(self, index: int, value: int) -> None:
        """What WRMSR does; GuestFault(13, 0), and nothing done."""
        if index != _TSC and not self._operation.write_msr(index, value):
            msrs.write_msr(self._state, index, value)
