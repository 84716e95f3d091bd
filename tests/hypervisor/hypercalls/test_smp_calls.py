"""Interrupts and flushes for many VPs: whom they reach, and each parameter that they cannot have."""

import pytest

from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.tlb import GvaRange, HvFlushFlags
from hv.spec.vp_set import HvGenericSetFormat, HvVpSet
from hv.trace import events
from tests.hypervisor.fakes import Machine

IN = 0x4000
VECTOR = 0x41
SPACE = 0x5000
ALL, EVERY_SPACE = int(HvFlushFlags.ALL_PROCESSORS), int(HvFlushFlags.ALL_VIRTUAL_ADDRESS_SPACES)
NON_GLOBAL, EXTENDED = int(HvFlushFlags.NON_GLOBAL_MAPPINGS_ONLY), int(HvFlushFlags.USE_EXTENDED_RANGE_FORMAT)
WRONG = S.INVALID_PARAMETER
IPI = (C.SEND_SYNTHETIC_CLUSTER_IPI, C.SEND_SYNTHETIC_CLUSTER_IPI_EX)
SPACES = (C.FLUSH_VIRTUAL_ADDRESS_SPACE, C.FLUSH_VIRTUAL_ADDRESS_SPACE_EX)
LISTS = (C.FLUSH_VIRTUAL_ADDRESS_LIST, C.FLUSH_VIRTUAL_ADDRESS_LIST_EX)
EX = {C.SEND_SYNTHETIC_CLUSTER_IPI_EX, C.FLUSH_VIRTUAL_ADDRESS_SPACE_EX, C.FLUSH_VIRTUAL_ADDRESS_LIST_EX}


class Bench(Machine):
    """A child with five VPs; VP 0 calls."""

    def __init__(self):
        super().__init__()
        self.guest = self.child(vps=5)
        self.vps = [self.guest.vps[n] for n in range(5)]

    def ask(self, code, mask=0b110, elements=(), banks=None, vp_format=HvGenericSetFormat.SPARSE_4K, **fields):
        """(status, reps completed); *mask* goes where the call has it, as bank 0 of a set for the Ex calls."""
        declaration = HYPERCALLS[code]
        banks = (mask,) if banks is None else banks
        valid = fields.pop("valid", (1 << len(banks)) - 1)
        if code in EX:
            fields["processor_set"] = HvVpSet(format=vp_format, valid_bank_mask=valid)
        else:
            fields["processor_mask"], banks = mask, ()
        data = declaration.input(**fields).pack() + b"".join(bank.to_bytes(8, "little") for bank in banks)
        self.guest.space.write(IN, data + b"".join(element.pack() for element in elements))
        control = HypercallControl(call_code=code, rep_count=len(elements), variable_header_size=len(banks))
        result = HypercallResult(hypercall(self.hypervisor, self.vps[0], control.raw, IN, 0))
        return S(result.status), result.reps_complete

    def flush(self, code, **fields):
        elements = [GvaRange(gva_range=0x7000)] if code in LISTS else []
        return self.ask(code, elements=fields.pop("elements", elements), **{"address_space": SPACE, **fields})

    @property
    def interrupted(self):
        return [vp.index for vp in self.vps if vp.apic.irr >> VECTOR & 1]

    @property
    def flushed(self):
        return [vp.index for vp in self.vps if vp.flushes]


@pytest.fixture
def bench():
    return Bench()


# --- interrupts ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("code", IPI)
@pytest.mark.parametrize(("mask", "taken"), [
    (0b110, [1, 2]), (0b1, [0]), (0, []), (1 << 63 | 0b1000, [3]), ((1 << 64) - 1, [0, 1, 2, 3, 4])])
def test_an_ipi_reaches_whom_it_names_and_who_does_not_exist_is_passed_over(bench, code, mask, taken):
    assert bench.ask(code, mask, vector=VECTOR) == (S.SUCCESS, 0)
    assert bench.interrupted == taken
    assert not any(vp.apic.tmr for vp in bench.vps)         # edge-triggered
    assert bench.events(events.ClusterIpi) == [events.ClusterIpi(VECTOR, tuple(taken))]


@pytest.mark.parametrize("code", IPI)
@pytest.mark.parametrize(("fields", "status"), [
    ({"vector": 15}, WRONG), ({"vector": 0x100}, WRONG), ({"vector": 16}, S.SUCCESS), ({"vector": 0xFF}, S.SUCCESS),
    ({"flags": 1}, WRONG), ({"reserved": 1}, WRONG), ({"target_vtl": 0x20}, WRONG),
    ({"target_vtl": 0x11}, S.INVALID_VTL_STATE), ({"target_vtl": 0x10}, S.SUCCESS)],
    ids=lambda value: "-".join(f"{name}-{number:#x}" for name, number in value.items())
    if isinstance(value, dict) else value.name)
def test_an_ipi_is_refused_as_a_whole(bench, code, fields, status):
    assert bench.ask(code, **{"vector": VECTOR, **fields})[0] == status
    assert bench.events(events.ClusterIpi) == [] or status == S.SUCCESS


def test_an_ipi_wakes_its_targets(bench):
    bench.ask(C.SEND_SYNTHETIC_CLUSTER_IPI, vector=VECTOR)
    assert [vp.kicks for vp in bench.vps] == [0, 1, 1, 0, 0]


def test_a_fast_ipi_has_its_mask_in_the_second_register(bench):
    control = HypercallControl(call_code=C.SEND_SYNTHETIC_CLUSTER_IPI, fast=1)
    assert hypercall(bench.hypervisor, bench.vps[0], control.raw, VECTOR, 0b10000) == S.SUCCESS
    assert bench.interrupted == [4]


def test_an_ipi_goes_to_nobody_in_another_partition(bench):
    other = bench.child(vps=3)
    bench.ask(C.SEND_SYNTHETIC_CLUSTER_IPI, vector=VECTOR)
    assert not any(vp.apic.irr for vp in other.vps.values())


# --- flushes ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("code", SPACES + LISTS)
@pytest.mark.parametrize(("mask", "flags", "flushed"), [
    (0b110, 0, [1, 2]), (0b1, 0, [0]), (1 << 40, 0, []), (0, ALL, [0, 1, 2, 3, 4]), (0b10, ALL, [0, 1, 2, 3, 4])])
def test_a_flush_reaches_whom_it_names(bench, code, mask, flags, flushed):
    assert bench.flush(code, mask=mask, flags=flags)[0] == S.SUCCESS
    assert bench.flushed == flushed
    assert bench.events(events.TranslationsFlushed) == [events.TranslationsFlushed(tuple(flushed), SPACE)]


@pytest.mark.parametrize("code", SPACES + LISTS)
def test_a_flush_of_every_space_ignores_the_space(bench, code):
    assert bench.flush(code, flags=EVERY_SPACE, address_space=1 << 63)[0] == S.SUCCESS
    assert bench.vps[1].flushes == [None]


@pytest.mark.parametrize("code", SPACES + LISTS)
@pytest.mark.parametrize("fields", [{"flags": 0x10}, {"flags": 1 << 32}, {"mask": 0}, {"address_space": 1 << 40}],
                         ids=["target-vtl", "unknown-flag", "nobody", "no-cr3"])
def test_a_flush_is_refused_as_a_whole(bench, code, fields):
    """TLFS "HvCallFlushVirtualAddressSpace": an empty mask does not mean everybody."""
    assert bench.flush(code, **fields) == (WRONG, 0)
    assert bench.flushed == []


@pytest.mark.parametrize(("codes", "flags"), [(SPACES, EXTENDED), (LISTS, NON_GLOBAL)], ids=["space", "list"])
def test_a_flag_of_the_other_call_is_unknown(bench, codes, flags):
    for code in codes:
        assert bench.flush(code, flags=flags) == (WRONG, 0)


@pytest.mark.parametrize("code", SPACES)
def test_a_space_can_be_flushed_but_for_its_global_mappings(bench, code):
    assert bench.flush(code, flags=NON_GLOBAL)[0] == S.SUCCESS
    assert bench.flushed == [1, 2]


@pytest.mark.parametrize("code", LISTS)
def test_a_list_counts_its_ranges_and_flushes_once(bench, code):
    ranges = [GvaRange(gva_range=n << 12 | 3) for n in range(20)]
    assert bench.flush(code, elements=ranges) == (S.SUCCESS, 20)
    assert bench.vps[2].flushes == [SPACE]


@pytest.mark.parametrize("code", LISTS)
@pytest.mark.parametrize(("gva_range", "status"), [
    (0x7000 | 5, S.SUCCESS), (0x20_0000 | 1 << 11, S.SUCCESS), (0x4000_0000 | 3 << 11, S.SUCCESS),
    (0x20_0000 | 1 << 11 | 1 << 13, WRONG), (0x20_0000 | 1 << 11 | 1 << 20, WRONG), (0xFF000, S.SUCCESS)],
    ids=["page", "2-mib", "1-gib", "reserved-low", "reserved-high", "small-page-bits"])
def test_an_extended_range_has_reserved_bits_when_it_is_large(bench, code, gva_range, status):
    ranges = [GvaRange(gva_range=0x7000), GvaRange(gva_range=gva_range)]
    assert bench.flush(code, elements=ranges, flags=EXTENDED) == (status, 2 if status == S.SUCCESS else 1)


@pytest.mark.parametrize("code", LISTS)
def test_extended_ranges_are_for_who_was_offered_them(bench, code):
    bench.guest.privileges &= ~(1 << 47)
    assert bench.flush(code, flags=EXTENDED) == (WRONG, 0)


def test_a_flush_goes_to_nobody_in_another_partition(bench):
    other = bench.child(vps=3)
    bench.flush(C.FLUSH_VIRTUAL_ADDRESS_SPACE, flags=ALL | EVERY_SPACE)
    assert not any(vp.flushes for vp in other.vps.values())


# --- sets of vps --------------------------------------------------------------------------------------------------

SETS = {
    "all": ({"vp_format": HvGenericSetFormat.ALL, "banks": ()}, S.SUCCESS, [0, 1, 2, 3, 4]),
    "all-with-banks": ({"vp_format": HvGenericSetFormat.ALL, "mask": 1}, S.SUCCESS, [0, 1, 2, 3, 4]),
    "second-bank-is-empty": ({"banks": (0b1, 0xFF), "valid": 0b101}, S.SUCCESS, [0]),
    "unknown-format": ({"vp_format": 2}, WRONG, []),
    "fewer-banks-than-bits": ({"mask": 1, "valid": 0b11}, S.INVALID_HYPERCALL_INPUT, []),
    "more-banks-than-bits": ({"banks": (1, 1), "valid": 1}, S.INVALID_HYPERCALL_INPUT, []),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_vps_is_what_its_banks_say(bench, name):
    fields, status, meant = SETS[name]
    assert bench.ask(C.SEND_SYNTHETIC_CLUSTER_IPI_EX, vector=VECTOR, **fields)[0] == status
    assert bench.interrupted == meant
    for code in (C.FLUSH_VIRTUAL_ADDRESS_SPACE_EX, C.FLUSH_VIRTUAL_ADDRESS_LIST_EX):
        assert bench.flush(code, **fields)[0] == status
    assert bench.flushed == meant


@pytest.mark.parametrize("code", [C.FLUSH_VIRTUAL_ADDRESS_SPACE_EX, C.FLUSH_VIRTUAL_ADDRESS_LIST_EX])
@pytest.mark.parametrize("fields", [{"banks": ()}, {"banks": (0, 0)}], ids=["no-banks", "empty-banks"])
def test_a_flush_of_an_empty_set_is_refused_unless_it_is_for_everybody(bench, code, fields):
    assert bench.flush(code, **fields) == (WRONG, 0)
    assert bench.flush(code, flags=ALL, **fields)[0] == S.SUCCESS
    assert bench.flushed == [0, 1, 2, 3, 4]


# --- the address space --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("value", "status"), [(0x7000, S.SUCCESS), (0x7018, S.SUCCESS), (1 << 40, WRONG)])
def test_the_address_space_is_switched_to_what_cr3_may_be(bench, value, status):
    control = HypercallControl(call_code=C.SWITCH_VIRTUAL_ADDRESS_SPACE, fast=1)
    assert hypercall(bench.hypervisor, bench.vps[0], control.raw, value, 0) == status
    assert bench.vps[0].regs.cr3 == (value if status == S.SUCCESS else 0)
