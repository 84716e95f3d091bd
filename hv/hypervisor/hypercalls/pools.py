"""Pools: pages that root gives to the hypervisor for a partition, and takes back. TLFS "Memory Management".

Only root has memory to give: a page it names is its own gpa, which is the spa, and no child's call ever names one.
"""

from __future__ import annotations

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require, require_any_node
from hv.hypervisor.memory.pages import PageOwners
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.memory import (
    DepositMemoryInput,
    GetMemoryBalanceOutput,
    GpaPageNumber,
    WithdrawMemoryInput,
)
from hv.trace.events import MemoryDeposited


@hypercall(HypercallCode.DEPOSIT_MEMORY, input=DepositMemoryInput, rep_input=GpaPageNumber,
           privilege=HvPrivilege.ACCESS_MEMORY_POOL)
def deposit_memory(call: Call, input: DepositMemoryInput, reps: Reps) -> None:
    """Pages of the caller go into a pool; it cannot reach them until it withdraws them."""
    partition = call.find(input.partition_id)
    partition.require_state(PartitionState.CREATED, PartitionState.ACTIVE)
    owners = call.hypervisor.owners
    require(call.partition.is_root, "only root has pages of its own", HvStatus.OPERATION_DENIED)
    try:
        for element in reps:
            require(owners.is_root(element.page_number), f"page {element.page_number:#x} is not the caller's")
            _deposit(owners, partition, element.page_number)
    finally:
        call.partition.space.invept()
        _announce_deposit(call, partition, reps.done - reps.start)


def _deposit(owners: PageOwners, partition: Partition, page: int) -> None:
    """A page that root gives itself when it has no other may become the table of root's that says it is gone."""
    pool = partition.pool
    pays_for_itself = partition.is_root and not pool.available
    if pays_for_itself:
        pool.deposit(page << 12)
    try:
        owners.take(page)
    except HypercallError:
        if pays_for_itself:
            pool.take_back(page << 12)
        raise
    if not pays_for_itself:
        pool.deposit(page << 12)


@hypercall(HypercallCode.WITHDRAW_MEMORY, input=WithdrawMemoryInput, rep_output=GpaPageNumber,
           privilege=HvPrivilege.ACCESS_MEMORY_POOL)
def withdraw_memory(call: Call, input: WithdrawMemoryInput, reps: Reps) -> None:
    """Unused pages of a pool come back, wiped; NO_RESOURCES ends the list when there are no more."""
    partition = call.find(input.partition_id)
    require(call.partition.is_root, "only root has pages of its own", HvStatus.OPERATION_DENIED)
    require_any_node(input.proximity_domain_info)
    try:
        for _ in reps:
            page = partition.pool.withdraw() >> 12
            _give_back(call.hypervisor.owners, partition, page)
            reps.answer(GpaPageNumber(page_number=page))
    finally:
        call.partition.space.invept()
        _announce_deposit(call, partition, reps.start - reps.done)


def _give_back(owners: PageOwners, partition: Partition, page: int) -> None:
    try:
        owners.give_back(page)
    except HypercallError:
        partition.pool.deposit(page << 12)
        raise


def _announce_deposit(call: Call, partition: Partition, count: int) -> None:
    if count:
        call.emit(MemoryDeposited(partition.id, count))


@hypercall(HypercallCode.GET_MEMORY_BALANCE, input=WithdrawMemoryInput, output=GetMemoryBalanceOutput,
           privilege=HvPrivilege.ACCESS_MEMORY_POOL)
def get_memory_balance(call: Call, input: WithdrawMemoryInput) -> GetMemoryBalanceOutput:
    """What a pool has, and what of it is used."""
    require_any_node(input.proximity_domain_info)
    pool = call.find(input.partition_id).pool
    return GetMemoryBalanceOutput(pages_available=pool.available, pages_in_use=pool.in_use)
