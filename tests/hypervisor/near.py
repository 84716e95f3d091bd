"""What is near the truth in the input of each hypercall: by the name of a field, and whole rows of what fits together.

A fuzz that guesses evenly is refused at the first check of every call. Here a field is what a caller would say most of
the time, and wrong in one respect otherwise. Two tables: `NEAR` by the name of the field, `ROWS` by call, for what one
field alone cannot say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from hv.hypervisor.registers.table import REGISTERS
from hv.platform import DEVICE_RID, DEVICE_SPA
from hv.root.boot import PML4
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.devices import HvDeviceDomainId, HvDeviceId
from hv.spec.msrs import Msr
from hv.spec.partition import ANY_VP, PARTITION_ID_SELF, VP_INDEX_SELF, HvMapGpaFlags, HvPartitionProperty
from hv.spec.synic import PortType

ROOT, CALLER, VICTIM, PEER = 1, 2, 3, 4     # partition ids
BORN = range(5, 11)                     # ids of what root creates meanwhile
Draw = Callable[[random.Random], int]
Row = Mapping[str, int | tuple[int, ...]]
C, P = HypercallCode, HvPartitionProperty
FREE_PAGES = tuple(range(0x62, 0x70))   # where nothing of a guest's stands: for its overlays


def one_of(*values: int) -> Draw:
    """Each as likely as the others."""
    return lambda chance: chance.choice(values)
ROOTS_FREE = 0x110                      # a page; those before it are where its own calls have their parameters


def _page(chance: random.Random) -> int:
    return chance.choice((chance.randrange(8), chance.choice(FREE_PAGES), chance.randrange(ROOTS_FREE, 0x300), 0, 0x200,
                          0x400, DEVICE_SPA >> 12, (1 << 28) - 1, 1 << 28, (1 << 52) - 1, (1 << 64) - 1))


def _source_page(chance: random.Random) -> int:
    """Root has most of its own from there on."""
    return chance.randrange(ROOTS_FREE, 0x1000) if chance.random() < 0.8 else _page(chance)


def _gpa(chance: random.Random) -> int:
    return chance.choice((*range(8), *FREE_PAGES)) << 12 | chance.choice((0, 8, 0xFF0, 0xFFF))


def _device(chance: random.Random) -> int:
    if chance.random() < 0.2:
        return chance.randrange(3)                  # a logical id
    return HvDeviceId(rid=DEVICE_RID + chance.randrange(3), device_type=chance.choice((1, 1, 1, 1, 0))).raw


def _map_flags(chance: random.Random) -> int:
    return chance.choice((0, 1, 3, 0xD, 0xF, 0xF, 0xE)) | chance.choice((
        0, 0, 0, 0, 0, HvMapGpaFlags.LARGE_PAGE, HvMapGpaFlags.NO_ACCESS, 1 << 30))


_BUILT = [name for name in HvRegisterName if name in REGISTERS]


def _name(chance: random.Random) -> int:
    return int(chance.choice(_BUILT if chance.random() < 0.7 else list(HvRegisterName)))


def _gva_range(chance: random.Random) -> int:
    page = chance.choice((0x10, 0x3F, 0x200, 1 << 35, 1 << 51))
    return page << 12 | chance.choice((0, 1, 0x7FF, 0x800, 0x1800, 0xFFF))


PARTITION_OF = {
    "root": one_of(*[CALLER] * 6, *[PEER] * 4, *[VICTIM] * 2, *BORN, ROOT, PARTITION_ID_SELF, 0),
    "child": one_of(*[PARTITION_ID_SELF] * 7, *[CALLER] * 3, VICTIM, ROOT, 0),
}
PARTITION_FIELDS = ("partition_id", "target_partition_id", "domain_partition", "port_partition",
                    "connection_partition", "parent_id", "previous_child_id")
_ID = one_of(0, 1, 1, 2, 2, 3, 3, 4, 5, (1 << 24) - 1, 1 << 24)
_VP = one_of(*[0] * 8, *[1] * 4, 2, 3, 63, 64, *[VP_INDEX_SELF] * 3, ANY_VP)
_VECTOR = one_of(0x52, 0x30, 0x41, 0xFF, 0x10, 0, 0x100, 15, 0xFFFF_FFFF)
_MASK = one_of(1, 1, 2, 3, 0xF, 0, 1 << 63, (1 << 64) - 1)
_SPACE = one_of(PML4, PML4, PML4, 0, 0x72000, 1 << 52)
_FLUSH_FLAGS = one_of(0, 0, 1, 2, 3, 4, 8, 0x10, 0x20)
NEAR: dict[str, Draw] = {
    **dict.fromkeys(("vp_index", "target_vp"), _VP),
    **dict.fromkeys(("target_gpa_base", "gva_page", "target_gpa_page", "map_location", "requested_map_location"),
                    _page),
    **dict.fromkeys(("page_number", "source_gpa_page"), _source_page),
    **dict.fromkeys(("port_id", "connection_id"), _ID),
    **dict.fromkeys(("vector", "target_vector"), _VECTOR),
    **dict.fromkeys(("processor_mask", "target_vp_mask"), _MASK),
    "base_gpa": _gpa, "device_id": _device, "map_flags": _map_flags, "logical_device_id": one_of(0, 1, 2),
    "property_code": one_of(*map(int, HvPartitionProperty)), "name": _name, "address_space": _SPACE,
    "property_value": one_of(0, 1, 100, 0x2030_FFFF, (1 << 64) - 1), "byte_count": one_of(0, 1, 8, 15, 16, 17),
    "payload_size": one_of(0, 1, 16, 240, 241), "message_type": one_of(0, 1, 5, 0x7FFF_FFFF, 0x8000_0000),
    "destination": one_of(0, 0, 1, 2, 0xFF, 1 << 40), "destination_address": one_of(0, 1, 0xFF, 0xFFFF_FFFF, 1 << 32),
    "destination_mode_logical": one_of(0, 1, 0, 1, 2), "trigger_mode": one_of(0, 0, 1, 2),
    "vector_count": one_of(1, 1, 2), "interrupt_type": one_of(0, 0, 1, 4), "base_irt_index": one_of(0, 0, 1),
    "valid_bank_mask": one_of(0, 1, 1, 1, 3, 1 << 63), "format": one_of(0, 0, 0, 1, 2),
    "flag_number": one_of(0, 3, 4, 2047), "lp_index": one_of(0, 0, 1), "gva_range": _gva_range,
    "control_flags": one_of(0, 1, 3, 6, 0x41, 0x81, 0x200, 1 << 9, 1 << 20), "sint": one_of(2, 2, 3, 15, 16, 0),
    "apic_id": one_of(0, 0, 1, 2, 3, 255), "eax": one_of(0, 1, 7, 0x4000_0000, 0x4000_0003, 0x8000_0001),
    "page_type": one_of(0, 0, 1), "xsave_states": one_of(0, 0, 3), "count": one_of(0, 1, 16, 4088, 4089),
    "options": one_of(0, 1, 2, 3, 4), "character": one_of(65, 0, 255, 256), "spin_count": one_of(0, 1, 1 << 31),
    "compatibility_version": one_of(0, 0x2000, 0x100A), "source": one_of(1, 1, 1, 2),
    "domain_id": one_of(*[1 << 32] * 4, 2 << 32, 2 << 32, 0, 0xFFFF_FFFF << 32, 1 << 32 | 1, 1 << 32 | 3, 16),
    "device_map_flags": one_of(3, 3, 1, 0, 2), "settings": one_of(1, 2, 3), "logical_property_code": one_of(10, 10, 0),
    "device_va_base": one_of(0, 0, 0x1000, 0x2000, 0xFEDF_E000, (1 << 48) - 0x2000, 8, 1 << 40),
}
# The same where nothing shall be wrong, for fields of which the row above says more than that.
RIGHT: dict[str, Draw] = {
    **dict.fromkeys(("target_gpa_base", "target_gpa_page"), one_of(*range(8), *FREE_PAGES)),
    **dict.fromkeys(("map_location", "requested_map_location"), one_of(*FREE_PAGES)), "gva_page": one_of(0x10, 0x3F),
    **dict.fromkeys(("page_number", "source_gpa_page"), lambda chance: chance.randrange(ROOTS_FREE, 0x300)),
    **dict.fromkeys(("port_id", "connection_id"), lambda chance: chance.randrange(1, 12)),
    **dict.fromkeys(("vector", "target_vector"), one_of(0x52, 0x30, 0x41, 0xFF)),
    **dict.fromkeys(("processor_mask", "target_vp_mask"), one_of(1, 2, 3)), "map_flags": one_of(0, 1, 3, 0xD, 0xF, 0xF),
    "base_gpa": lambda chance: chance.randrange(0x200) * 0x200, "byte_count": one_of(0, 1, 8, 16),
    "device_id": lambda chance: HvDeviceId(rid=DEVICE_RID + chance.randrange(4), device_type=1).raw,
    "logical_device_id": lambda chance: chance.randrange(8), "name": lambda chance: int(chance.choice(_BUILT)),
    "payload_size": one_of(0, 1, 16, 240), "message_type": one_of(1, 5, 0x7FFF_FFFF), "sint": one_of(2, 2, 3, 15),
    "destination": one_of(0, 1, 2), "destination_address": one_of(0, 1, 0xFF), "destination_mode_logical": one_of(0, 1),
    "trigger_mode": one_of(0, 1), "vector_count": one_of(1), "interrupt_type": one_of(0, 1), "lp_index": one_of(0),
    "valid_bank_mask": one_of(0, 1), "format": one_of(0, 1), "flag_number": one_of(0, 3, 2047), "source": one_of(1),
    "control_flags": one_of(0, 1), "apic_id": one_of(0, 1, 2), "page_type": one_of(0, 1),
    "count": one_of(0, 1, 16, 4088), "options": one_of(0, 1), "character": one_of(65, 0, 255),
    "device_map_flags": one_of(1, 3), "settings": one_of(1, 2), "vp_index": lambda chance: chance.randrange(8),
    "domain_id": lambda chance: HvDeviceDomainId(id=chance.randrange(1, 3)).raw, "logical_property_code": one_of(10),
    "device_va_base": one_of(0, 0x1000, 0x2000, 0x1FF000, 1 << 30), "gva_range": one_of(0x10000, 0x3F001),
    "address_space": one_of(PML4), "value": one_of(0, 1, 0x52, 0x62001, (1 << 128) - 1),
    "data": lambda chance: chance.getrandbits(128), "payload": lambda chance: chance.getrandbits(240 * 8),
}
# What a partition may do for itself: most of them have no child.
A_CHILDS = frozenset((
    *range(C.SWITCH_VIRTUAL_ADDRESS_SPACE, C.CREATE_PARTITION + 1), C.GET_PARTITION_ID, C.GET_NEXT_CHILD_PARTITION,
    C.GET_VP_REGISTERS, C.SET_VP_REGISTERS, *range(C.TRANSLATE_VIRTUAL_ADDRESS, C.READ_GPA),
    *range(C.CREATE_PORT_V1, C.SAVE_PARTITION_STATE), C.GET_PARTITION_PROPERTY, C.DEPOSIT_MEMORY, C.WITHDRAW_MEMORY,
    C.GET_MEMORY_BALANCE, *range(C.POST_DEBUG_DATA, C.MAP_SPARSE_GPA_PAGES), C.SET_PORT_PROPERTY,
    C.OUTPUT_DEBUG_CHARACTER, C.CREATE_PORT, C.CONNECT_PORT, C.START_VIRTUAL_PROCESSOR, C.GET_VP_INDEX_FROM_APIC_ID,
    C.TRANSLATE_VIRTUAL_ADDRESS_EX, C.MAP_DEVICE_INTERRUPT, C.UNMAP_DEVICE_INTERRUPT, C.RETARGET_DEVICE_INTERRUPT,
    *range(C.CREATE_DEVICE_DOMAIN, C.CREATE_CPU_GROUP), *range(C.DETACH_DEVICE_DOMAIN, C.GET_GPA_PAGES_ACCESS_STATE),
    C.CONFIGURE_DEVICE_DOMAIN, C.FLUSH_DEVICE_DOMAIN, C.GET_VP_SET_FROM_MDA, C.GET_VP_CPUID_VALUES,
    C.GET_IOMMU_CAPABILITIES, C.GET_LOGICAL_DEVICE_PROPERTY, C.MAP_STATS_PAGE2, C.EXT_CALL_QUERY_CAPABILITIES))
# Mostly zero, else hardly a call gets further.
SELDOM = {"padding", "reserved", "unused", "flags", "proximity_domain_info", "isolation_properties", "input_vtl",
          "target_vtl", "port_vtl", "min_connection_vtl", "connection_vtl", "attach_vtl", "target_flags", "vtl",
          "trigger_value", "trigger_flags", "is_doorbell", "subnode_type", "subnode_id", "unmap_flags", "area_type",
          "disabled_processor_features", "disabled_xsave_features", "xsave_flags", "timeout", "pf_rid",
          "pci_capabilities", "owner_vtl", "create_flags", "flush_flags", "page_table_root"}

_STATISTICS: tuple[Row, ...] = (
    {"object_type": 0x10001, "vp_index": 0}, {"object_type": 0x10002, "vp_index": (0, 1)},
    {"object_type": 1, "vp_index": 0, "partition_id": 0}, {"object_type": 2, "vp_index": 0, "partition_id": 0},
    {"object_type": (0, 3)})
_FLUSHES: tuple[Row, ...] = tuple({"flags": flags} for flags in (0, 1, 2, 3, 4, 8, 0x10, 0x20))
_STATES: tuple[Row, ...] = (
    *({"state_type": 0x8000_0000 | kind, "xsave_states": 0} for kind in (0, 2, 3)),
    {"state_type": 0x8000_0001, "xsave_states": (1, 2, 3)}, {"state_type": 4, "xsave_states": 0},
    {"state_type": (1, 0x8000_0004)})
_RESULT: tuple[Row, ...] = ({"intercept_type": 2, "vp_index": ANY_VP, "subleaf_specific": (0, 1), "always_override": 1},
                            {"intercept_type": 2, "subleaf_specific": 0, "always_override": 0, "ecx": 0})
_SHARE = (0, 1, 1000, 65536, 65537)
_PROPERTIES: tuple[Row, ...] = (
    {"property_code": P.SUSPEND, "property_value": (0, 0, 1, 2)},
    {"property_code": P.TIME_FREEZE, "property_value": (0, 0, 1, 2)},
    *({"property_code": code, "property_value": _SHARE} for code in (P.CPU_RESERVE, P.CPU_CAP, P.CPU_WEIGHT)),
    {"property_code": P.REFERENCE_TIME, "property_value": (0, 10_000, 1 << 58, (1 << 58) + 1)},
    {"property_code": P.DEBUG_CHANNEL_ID, "property_value": (0, 1, 1, 2, 1 << 32)},
    {"property_code": P.UNIMPLEMENTED_MSR_ACTION, "property_value": (0, 1, 2)},
    {"property_code": P.PRIVILEGE_FLAGS, "property_value": (0, 0x2030_FFFF)},
    {"property_code": tuple(map(int, P))})
_PORTS: tuple[Row, ...] = (
    {"port_type": PortType.MESSAGE, "target_sint": (2, 3, 15), "target_vp": (0, 1, ANY_VP), "base_flag_number": 0,
     "flag_count": 0},
    {"port_type": PortType.EVENT, "target_sint": (2, 3, 15), "target_vp": (0, 1, ANY_VP),
     "base_flag_number": (0, 8, 2047), "flag_count": (1, 16, 2040)},
    {"port_type": PortType.MONITOR, "target_sint": (0x5000, 0x61000), "target_vp": 0, "base_flag_number": 0,
     "flag_count": 0},
    {"port_type": (0, 4, 5), "target_sint": (0, 16)})
_CONNECTIONS: tuple[Row, ...] = (
    {"port_type": (PortType.MESSAGE, PortType.EVENT), "gpa": 0},
    {"port_type": PortType.MONITOR, "gpa": (0x5000, 0x62000, 0x5004)})
_PORT_PROPERTIES: tuple[Row, ...] = ({"property_code": tuple(range(10)), "property_value": (0, 1, ANY_VP)},)
# One row is taken of a call most of the time; the fields that it does not name are as `NEAR` says.
ROWS: dict[int, tuple[Row, ...]] = {
    **dict.fromkeys((C.MAP_STATS_PAGE, C.MAP_STATS_PAGE2, C.UNMAP_STATS_PAGE), _STATISTICS),
    **dict.fromkeys((C.FLUSH_VIRTUAL_ADDRESS_SPACE, C.FLUSH_VIRTUAL_ADDRESS_LIST, C.FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
                     C.FLUSH_VIRTUAL_ADDRESS_LIST_EX), _FLUSHES),
    **dict.fromkeys((C.GET_VP_STATE, C.SET_VP_STATE), _STATES),
    **dict.fromkeys((C.REGISTER_INTERCEPT_RESULT, C.UNREGISTER_INTERCEPT_RESULT), _RESULT),
    **dict.fromkeys((C.GET_PARTITION_PROPERTY, C.SET_PARTITION_PROPERTY, C.SET_PARTITION_PROPERTY_EX), _PROPERTIES),
    **dict.fromkeys((C.CREATE_PORT, C.CREATE_PORT_V1), _PORTS),
    **dict.fromkeys((C.CONNECT_PORT, C.CONNECT_PORT_V1), _CONNECTIONS),
    **dict.fromkeys((C.GET_PORT_PROPERTY, C.SET_PORT_PROPERTY), _PORT_PROPERTIES),
    C.INSTALL_INTERCEPT: (
        {"intercept_type": 0, "access_type": (0, 3), "intercept_parameter": (0x80, 0x3F8, 0x10000)},
        {"intercept_type": 0x11, "access_type": (0, 3), "intercept_parameter": (0x400000, 0x3FF << 16 | 0x3F8, 1)},
        {"intercept_type": 1, "access_type": (0, 3), "intercept_parameter": (0xC000_0080, 0x1B, Msr.HV_REFERENCE_TSC)},
        {"intercept_type": 2, "access_type": (0, 4), "intercept_parameter": (0, 1, 0x4000_0000)},
        {"intercept_type": 3, "access_type": (0, 4), "intercept_parameter": (6, 13, 14, 31, 32)},
        {"intercept_type": (6, 8, 0xD, 0xF), "access_type": (0, 4), "intercept_parameter": (0, 0, 1)},
        {"intercept_type": (4, 5, 7, 9), "access_type": (0, 1, 3, 4, 7)}),
    C.ASSERT_VIRTUAL_INTERRUPT: (
        {"interrupt_control": (0, 1, 1 << 32, 1 << 33), "vector": (0x30, 0x52, 0xFF)},
        {"interrupt_control": (7, 7 | 1 << 32), "vector": (0x52, 0xFFFF_FFFF), "destination": 0},
        {"interrupt_control": (4, 5, 7, 8, 9), "vector": 0}, {"interrupt_control": 6, "vector": (8, 0)},
        {"interrupt_control": (2, 3, 10, 1 << 34)}),
    C.CHECK_FOR_IO_INTERCEPT: ({"port": (0, 0x80, 0x3F8, 0xFFFF), "size": (1, 2, 4, 3), "is_write": (0, 1)},),
    C.POST_MESSAGE_DIRECT: ({"sender": (0, CALLER)},),
    C.RETARGET_DEVICE_INTERRUPT: (
        {"target_flags": (0, 0, 0, 1)}, {"target_flags": (2, 3), "target_vp_mask": (0, 1)}),
    C.MAP_DEVICE_INTERRUPT: (
        {"source": 0, "target_flags": (0, 0, 0, 1)}, {"source": 0, "target_flags": (2, 3), "target_vp_mask": (0, 1)},
        {"source": 1, "address": (0xFEE0_0000, 0xFEE0_0030, 0xFED0_0000)}),
    C.ASSERT_DEVICE_INTERRUPT: (
        {"source": 1, "address": (0xFEE0_0000, 0xFEE0_1008, 0xFEE0_F00C, 0xFEEF_F000), "data": (0x41, 0x152, 0xC030)},
        {"source": 1, "address": (0xFEE0_0010, 0xFEE0_0000, 0), "data": (0, 0x200, 0x400, 0x500, 0x700, 3)}),
    C.MAP_VP_STATE_PAGE: ({"flags": 0, "requested_map_location": 0}, {"flags": (1, 1, 2)}),
}
_PAGE_UNIT = one_of(*FREE_PAGES, 0x150, 0x160, 0, 1 << 40)
# What follows the fixed input of a call with a variable header that is no set of VPs: the units, and what each is.
UNITS: dict[int, tuple[tuple[int, ...], Draw]] = {
    **dict.fromkeys((C.MAP_DEVICE_INTERRUPT, C.RETARGET_DEVICE_INTERRUPT), ((0, 0, 0, 0, 2), one_of(1, 1, 2, 3))),
    C.GET_VP_STATE: ((0, 1, 1, 1, 1), _PAGE_UNIT), C.SET_VP_STATE: ((1, 1, 1, 25), _PAGE_UNIT),
    C.SET_PARTITION_PROPERTY_EX: ((1, 1, 1, 0, 2), one_of(0, 1, 100, 65536)),
}


def row_of(chance: random.Random, code: int) -> dict[str, int]:
    """Values of fields that go together in the input of *code*."""
    rows = ROWS.get(code)
    if rows is None or chance.random() < 0.1:
        return {}
    chosen = chance.choice(rows)
    return {name: chance.choice(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
