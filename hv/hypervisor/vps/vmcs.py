"""The VMCS of a VP, as a hypervisor uses one: cleared, loaded, written, launched once, resumed ever after.

SDM "Software Use of Virtual-Machine Control Structures". VMREAD, VMWRITE and VM entry concern the current VMCS only,
so the VP whose turn it is makes its own current; a turn of the VP that ran last finds it so. Whoever writes a field of
another VP's borrows: VMPTRLD, VMWRITE, VMPTRLD of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hv.spec.vmcs import NO_VMCS, VmcsField
from hv.vmx.root_operation.operation import VmxOperation
from hv.vmx.vmcs import DEFAULT_CONTROLS, LaunchState

_LAUNCHED = LaunchState.LAUNCHED        # naming a member of an enumeration costs a call


class VpVmcs:
    """A new VMCS in *page* of physical memory, with the controls that this hypervisor wants."""

    def __init__(self, operation: VmxOperation, page: int) -> None:
        self.page, self._operation = page, operation
        operation.memory.write_u32(page, operation.processor.basic.revision_id)
        operation.vmclear(page)
        with self.current():
            assert operation.current is not None, "VMPTRLD succeeded"
            self.fields = operation.current
            for field, value in DEFAULT_CONTROLS.items():
                operation.vmwrite(field, value)

    @contextmanager
    def current(self) -> Iterator[None]:
        """It is the current VMCS inside; afterwards the one that was current before is."""
        operation = self._operation
        before = operation.vmptrst()
        if before != self.page:
            operation.vmptrld(self.page)
        try:
            yield
        finally:
            if before not in (self.page, NO_VMCS):
                operation.vmptrld(before)

    def read(self, field: VmcsField) -> int:
        """VMREAD, whoever's VMCS is current."""
        with self.current():
            return self._operation.vmread(field)

    def write(self, field: VmcsField, value: int) -> None:
        """VMWRITE, whoever's VMCS is current."""
        if self._operation.current is self.fields:      # the usual
            self._operation.vmwrite(field, value)
            return
        with self.current():
            self._operation.vmwrite(field, value)

    def enter(self) -> None:
        """Its VP runs now: what VMLAUNCH and VMRESUME check before they look at any field.

        One that is current, launched and no shadow VMCS is all that VMRESUME asks for, so that is not executed.
        """
        operation = self._operation
        if operation.current is not self.fields:
            operation.vmptrld(self.page)
        if self.fields.launch_state is not _LAUNCHED:
            operation.vmlaunch()

    def clear(self) -> None:
        """Its page may be used for something else."""
        self._operation.vmclear(self.page)
