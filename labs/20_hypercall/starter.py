"""A hypercall: which virtual processors have these APIC ids?

    call.control                        the input value, RCX
    call.input_gpa, call.output_gpa     where the input is, and where the output goes: RDX and R8
    call.partition_id                   the caller's partition
    call.partitions                     the partitions there are; the caller is the parent of none
    call.apic_ids                       the APIC ids of its VPs, in the order of their indexes
    call.read(gpa, size)                bytes of the caller's memory, a page at most
    call.write(at, data)                stores bytes, *at* bytes behind the output's address

`hv lab check` says how far you are; `hv lab hint` helps; `hv lab trace` shows what the machine records.
"""

SUCCESS, INVALID_INPUT, INVALID_ALIGNMENT, INVALID_PARAMETER, ACCESS_DENIED, INVALID_PARTITION_ID = 0, 3, 4, 5, 6, 13
SELF = (1 << 64) - 1                    # HV_PARTITION_ID_SELF: whoever calls


def get_vp_index(call):
    """HvCallGetVpIndexFromApicId: the result value, a status in bits 15:0 and the reps completed in bits 43:32."""
    return SUCCESS
