"""An EPT walk: a solution."""

ADDRESS = 0x000F_FFFF_FFFF_F000         # bits 51..12


def walk(eptp, gpa, read_u64):
    """(spa, rights) of *gpa*, or None."""
    table, rights = eptp & ADDRESS, 7
    for shift in (39, 30, 21, 12):
        entry = read_u64(table + 8 * (gpa >> shift & 511))
        if not entry & 7:
            return None
        rights &= entry
        if shift == 12 or (shift < 39 and entry & 0x80):
            break
        table = entry & ADDRESS
    offset = (1 << shift) - 1
    return entry & ADDRESS & ~offset | gpa & offset, rights
