"""Every layout and register of the room keeps what is put into it, and nothing leaks from one field to the next."""

import importlib
import pkgutil
import random
import struct
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hv.spec
from hv.spec.layout import Layout, Register, array, bits, i64, raw, u8, u16, u32, u64


def declared(kind: type) -> list[type]:
    """All classes of *kind* that some file of the room declares."""
    found = {}
    for info in pkgutil.iter_modules(hv.spec.__path__):
        module = importlib.import_module(f"hv.spec.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, kind) and value is not kind:
                found[f"{value.__module__}.{value.__name__}"] = value
    return [found[name] for name in sorted(found)]


LAYOUTS = declared(Layout)
REGISTERS = declared(Register)


class Inner(Layout):
    a: "u16"
    b: "u16"


class Everything(Layout):
    byte: "u8"
    word: "u16"
    dword: "u32"
    qword: "u64"
    signed: "i64"
    blob: "raw[5]"
    words: "array['u16', 3]"
    one: "Inner"
    two: "array[Inner, 2]"


class Sint(Register):
    vector = bits(7, 0)
    masked = bits(16)
    top = bits(63, 60)


PATTERNS = (0, 2**64 - 1, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 0x0123_4567_89AB_CDEF)


def values(width: int) -> list[int]:
    """Numbers of *width* bits: none and all of them set, every second, and no regular ones."""
    return sorted({pattern & (1 << width) - 1 for pattern in PATTERNS})


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda each: each.__name__)
def test_a_layout_packs_to_the_bytes_it_was_parsed_from(layout):
    for seed in range(3):
        image = random.Random(seed).randbytes(layout.SIZE)
        parsed = layout.parse(image)
        assert parsed.pack() == image
        assert layout.parse(parsed.pack()) == parsed


@pytest.mark.parametrize("register", REGISTERS, ids=lambda each: each.__name__)
def test_a_field_of_a_register_changes_no_other(register):
    for value, (name, field) in product(values(register.WIDTH), register.BITS.items()):
        for new in values((field.mask >> field.low).bit_length()):
            made = register(value)
            setattr(made, name, new)
            assert getattr(made, name) == new
            assert made.raw & ~field.mask == value & ~field.mask


@pytest.mark.parametrize("register", REGISTERS, ids=lambda each: each.__name__)
def test_a_register_is_its_fields_and_its_reserved_bits(register):
    for value in values(register.WIDTH):
        fields = {name: getattr(register(value), name) for name in register.BITS}
        rebuilt = register(value & register.RESERVED, **fields)
        assert rebuilt == register(value)
        assert hash(rebuilt) == hash(register(value))


@pytest.mark.parametrize("register", REGISTERS, ids=lambda each: each.__name__)
def test_a_value_too_large_for_its_field_is_refused(register):
    for name, field in register.BITS.items():
        for bad in (-1, (field.mask >> field.low) + 1):
            with pytest.raises(ValueError, match=name):
                register(**{name: bad})


@given(st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
       st.integers(-(2**63), 2**63 - 1), st.binary(min_size=5, max_size=5),
       st.tuples(*[st.integers(0, 0xFFFF)] * 3))
def test_every_field_type_comes_back(byte, word, dword, qword, signed, blob, words):
    made = Everything(byte=byte, word=word, dword=dword, qword=qword, signed=signed, blob=blob, words=words,
                      one=Inner(a=1, b=word), two=(Inner(a=2), Inner(b=3)))
    assert Everything.parse(made.pack()) == made
    assert made.inspect()["two"] == [{"a": 2, "b": 0}, {"a": 0, "b": 3}]


def test_fields_stand_packed_in_the_order_written():
    assert Everything.SIZE == 1 + 2 + 4 + 8 + 8 + 5 + 6 + 4 + 8
    assert Everything.offset_of("qword") == 7
    assert Everything(qword=0x11223344).pack()[7:15] == bytes.fromhex("4433221100000000")


@pytest.mark.parametrize(("name", "bad"), [
    ("byte", 256), ("byte", -1), ("word", 0x10000), ("dword", 1 << 32), ("qword", 1 << 64), ("signed", 1 << 63),
    ("blob", bytes(6)), ("words", (0, 0, 0x10000)),
])
def test_a_layout_refuses_what_does_not_fit(name, bad):
    with pytest.raises((ValueError, struct.error)):
        Everything(**{name: bad}).pack()


def test_too_few_bytes_are_refused_by_name():
    with pytest.raises(ValueError, match="Inner is 4 bytes; 3 are there"):
        Inner.parse(bytes(5), 2)
    with pytest.raises(ValueError, match="Inner"):
        Inner.parse(bytes(5), -1)


def test_a_misspelled_field_is_refused():
    with pytest.raises(TypeError, match="no field vektor"):
        Sint(vektor=1)
    with pytest.raises(TypeError, match="no field c"):
        Inner(c=1)


def test_overlapping_bits_are_refused_at_declaration():
    with pytest.raises(TypeError, match="overlaps"):
        type("Bad", (Register,), {"low": bits(7, 0), "high": bits(8, 7)})
    with pytest.raises(TypeError, match="exceeds 32 bits"):
        type("Wide", (Register,), {"WIDTH": 32, "high": bits(32)})
    with pytest.raises(TypeError, match="the higher one comes first"):
        bits(0, 7)


def test_a_register_prints_raw_value_and_fields():
    assert repr(Sint(vector=0x52, masked=1)) == "Sint(0x10052: vector=0x52 masked=0x1 top=0x0)"
    assert Sint.RESERVED == 0x0FFF_FFFF_FFFE_FF00


class Extended(Inner):
    tail: "u16"


def test_a_layout_that_extends_another_reads_and_writes_its_own_fields():
    """The code made for the base at its first use must not serve the extension."""
    assert Inner.parse(bytes(Inner.SIZE)).pack() == bytes(Inner.SIZE)
    extended = Extended.parse(bytes(Inner.SIZE) + b"\x34\x12")
    assert type(extended) is Extended
    assert extended.tail == 0x1234
    assert extended.pack() == bytes(Inner.SIZE) + b"\x34\x12"


@pytest.mark.parametrize("offset", [-1, 1, 1 << 40])
def test_reading_outside_the_data_is_an_error_that_counts_what_is_there(offset):
    data = bytes(Inner.SIZE)
    with pytest.raises(ValueError, match=f"Inner is {Inner.SIZE} bytes"):
        Inner.parse(data, offset)
