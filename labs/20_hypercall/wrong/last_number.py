"""The number of the last rep."""

SUCCESS, INVALID_INPUT, INVALID_ALIGNMENT, INVALID_PARAMETER, ACCESS_DENIED, INVALID_PARTITION_ID = 0, 3, 4, 5, 6, 13
SELF = (1 << 64) - 1
KNOWN = 0x0FFF_0FFF_0000_FFFF           # bits of the input value that this call may have: code, rep count, rep start


def misplaced(gpa, size):
    """*size* bytes at *gpa* are not 8-aligned, or not in one page."""
    return gpa % 8 or gpa % 4096 + size > 4096


def get_vp_index(call):
    """HvCallGetVpIndexFromApicId: the result value."""
    count, start = call.control >> 32 & 0xFFF, call.control >> 48 & 0xFFF
    if call.control & ~KNOWN or start >= count:
        return INVALID_INPUT
    if misplaced(call.input_gpa, 16 + 4 * count) or misplaced(call.output_gpa, 4 * count):
        return INVALID_ALIGNMENT
    data = call.read(call.input_gpa, 16 + 4 * count)
    if any(data[8:16]):
        return INVALID_PARAMETER
    partition = int.from_bytes(data[:8], "little")
    if partition not in (SELF, call.partition_id):
        return ACCESS_DENIED if partition in call.partitions else INVALID_PARTITION_ID
    for rep in range(start, count):
        apic_id = int.from_bytes(data[16 + 4 * rep : 20 + 4 * rep], "little")
        if apic_id not in call.apic_ids:
            return rep << 32 | INVALID_PARAMETER
        call.write(4 * rep, call.apic_ids.index(apic_id).to_bytes(4, "little"))
    return rep << 32 | SUCCESS
