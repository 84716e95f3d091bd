"""Some fields of a layout, taken apart without the others."""

from hv.spec.synic import HvInterceptHeader, IoPortIntercept


def test_a_picker_takes_fields_of_nested_structures_from_their_places():
    message = IoPortIntercept(port=0x3F8, access_info=2, rax=7, header=HvInterceptHeader(vp_index=3, rip=0x1000))
    picker = IoPortIntercept.picker("header.vp_index", "header.rip", "port", "access_info", "rax")
    assert picker.unpack_from(message.pack()) == (3, 0x1000, 0x3F8, 2, 7)
    assert IoPortIntercept.place_of("header.rip") == (HvInterceptHeader.offset_of("rip"), "Q")
