"""The debug session by hypercall; TLFS "Debugging". A guest's kernel debugger sends and receives, so does root's side.

# Simplified: no call waits. Where the TLFS lets one loop, the count that is left or NO_DATA comes at once.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.debug import (
    MAX_DEBUG_DATA,
    DebugPostOptions,
    DebugResetOptions,
    DebugRetrieveOptions,
    OutputDebugCharacterInput,
    PostDebugDataInput,
    PostDebugDataOutput,
    ResetDebugSessionInput,
    RetrieveDebugDataInput,
    RetrieveDebugDataOutput,
)

_POST, _RETRIEVE, _RESET = (sum(flag.value for flag in flags) for flags in (
    DebugPostOptions, DebugRetrieveOptions, DebugResetOptions))
_TEST = DebugRetrieveOptions.TEST_ACTIVITY.value
_PURGE_INCOMING, _PURGE_OUTGOING = DebugResetOptions.PURGE_INCOMING.value, DebugResetOptions.PURGE_OUTGOING.value


@hypercall(HypercallCode.POST_DEBUG_DATA, input=PostDebugDataInput, output=PostDebugDataOutput,
           privilege=HvPrivilege.DEBUGGING)
def post_debug_data(call: Call, input: PostDebugDataInput) -> PostDebugDataOutput:
    """Send to the other end; what finds no room there stays the caller's."""
    _check(input.options, _POST, input.count)
    end = call.hypervisor.debug_channels.end_of(call.partition)
    return PostDebugDataOutput(pending_count=input.count - end.send(input.data[: input.count]))


@hypercall(HypercallCode.RETRIEVE_DEBUG_DATA, input=RetrieveDebugDataInput, output=RetrieveDebugDataOutput,
           privilege=HvPrivilege.DEBUGGING)
def retrieve_debug_data(call: Call, input: RetrieveDebugDataInput) -> RetrieveDebugDataOutput:
    """What the other end has sent; NO_DATA when nothing waits."""
    _check(input.options, _RETRIEVE, input.count)
    end = call.hypervisor.debug_channels.end_of(call.partition)
    require(end.incoming, "nothing waits", HvStatus.NO_DATA)
    data = b"" if input.options & _TEST else end.take(input.count)
    return RetrieveDebugDataOutput(retrieved_count=len(data), remaining_count=len(end.incoming),
                                   data=data.ljust(MAX_DEBUG_DATA, b"\0"))


@hypercall(HypercallCode.RESET_DEBUG_SESSION, input=ResetDebugSessionInput, privilege=HvPrivilege.DEBUGGING)
def reset_debug_session(call: Call, input: ResetDebugSessionInput) -> None:
    """Throw away what waits on one side or on both."""
    _check(input.options, _RESET, 0)
    end = call.hypervisor.debug_channels.end_of(call.partition)
    if input.options & _PURGE_INCOMING:
        end.take(len(end.incoming))
    if input.options & _PURGE_OUTGOING and end.peer is not None:
        end.peer.take(len(end.peer.incoming))


@hypercall(HypercallCode.OUTPUT_DEBUG_CHARACTER, input=OutputDebugCharacterInput)
def output_debug_character(call: Call, input: OutputDebugCharacterInput) -> None:
    """Send one byte; INSUFFICIENT_BUFFERS when there is no room for it."""
    require(input.character < 256, f"character {input.character:#x}")
    sent = call.hypervisor.debug_channels.end_of(call.partition).send(bytes([input.character]))
    require(sent, "the other end's buffer is full", HvStatus.INSUFFICIENT_BUFFERS)


def _check(options: int, known: int, count: int) -> None:
    require(not options & ~known, f"options {options & ~known:#x} are unknown")
    require(count <= MAX_DEBUG_DATA, f"{count} bytes; at most {MAX_DEBUG_DATA}")
