"""Inputs and outputs of the partition calls; TLFS "Partition Management"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, u32, u64


class PartitionInput(Layout):
    """The input of InitializePartition, FinalizePartition, DeletePartition, ScrubPartition, ClearVirtualInterrupt."""

    partition_id: u64


class PartitionIdOutput(Layout):
    """One partition id: the output of CreatePartition, GetPartitionId and GetNextChildPartition."""

    partition_id: u64


class CreatePartitionInput(Layout):
    """HvCallCreatePartition."""

    flags: u64                          # CreatePartitionFlags
    proximity_domain_info: u64
    compatibility_version: u32
    padding: u32
    disabled_processor_features: u64
    disabled_processor_features1: u64
    disabled_xsave_features: u64
    isolation_properties: u64           # must be zero


class GetPartitionPropertyInput(Layout):
    """HvCallGetPartitionProperty."""

    partition_id: u64
    property_code: u32                  # HvPartitionProperty
    padding: u32


class GetPartitionPropertyOutput(Layout):
    """HvCallGetPartitionProperty."""

    property_value: u64


class SetPartitionPropertyInput(Layout):
    """HvCallSetPartitionProperty."""

    partition_id: u64
    property_code: u32
    padding: u32
    property_value: u64


class SetPartitionPropertyExInput(Layout):
    """HvCallSetPartitionPropertyEx; the value follows as the variable header."""

    partition_id: u64
    property_code: u32
    padding: u32


class GetNextChildPartitionInput(Layout):
    """HvCallGetNextChildPartition."""

    parent_id: u64
    previous_child_id: u64              # 0 asks for the first
