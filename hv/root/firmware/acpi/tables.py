"""All tables of a board, each with its header, its length and its checksum, and the pointers between them.

Tables stand one behind the other on 64 bytes: FACS, DSDT, FADT, MADT and the rest, then the RSDT and the XSDT that
point to them. ACPI "Overview of the System Description Table Architecture".
"""

from __future__ import annotations

from typing import NamedTuple

from hv.root.firmware.acpi import dsdt
from hv.root.firmware.acpi.fadt import facs, fadt
from hv.root.firmware.acpi.madt import madt
from hv.root.firmware.board import Board, RemappingUnit, Scope
from hv.root.firmware.checksum import checksum, with_checksum
from hv.spec.acpi import (
    FACS_ALIGNMENT,
    FIRST_RSDP_SIZE,
    RSDP_SIGNATURE,
    AddressSpace,
    DeviceScope,
    Dmar,
    DmarType,
    Drhd,
    GenericAddress,
    HpetTable,
    Mcfg,
    McfgAllocation,
    Rsdp,
    SdtHeader,
    Waet,
    WaetFlags,
)
from hv.spec.pc import ECAM_BUSES, ECAM_GPA, HPET_GPA

OEM_ID, OEM_TABLE_ID, CREATOR = b"HVLAB ", b"HVLABPC ", b"HVLB"
_CHECKSUM = SdtHeader.offset_of("checksum")
_HPET_MINIMUM_TICK = 5000        # 50 us: what comes faster is lost


class Tables(NamedTuple):
    """What is to be written: the root pointer, and the rest as one piece."""

    rsdp: bytes
    rest: bytes


def table(signature: bytes, revision: int, header: SdtHeader, rest: bytes = b"") -> bytes:
    """*header*, whose common part is filled in, with *rest* behind it."""
    common = SdtHeader(signature=signature, length=header.SIZE + len(rest), revision=revision, oem_id=OEM_ID,
                       oem_table_id=OEM_TABLE_ID, oem_revision=1, creator_id=CREATOR, creator_revision=1)
    return with_checksum(common.pack() + header.pack()[SdtHeader.SIZE :] + rest, _CHECKSUM)


class _Piece:
    """Memory from *gpa* on that fills up from its beginning."""

    def __init__(self, gpa: int) -> None:
        self.gpa, self.data = gpa, bytearray()

    def append(self, data: bytes) -> int:
        """Where *data* is now."""
        self.data += bytes(-len(self.data) % FACS_ALIGNMENT)
        start = self.gpa + len(self.data)
        self.data += data
        return start


def size(board: Board) -> int:
    """Bytes that `tables` makes behind its address."""
    return len(tables(board, 0).rest)


def tables(board: Board, gpa: int) -> Tables:
    """The tables of *board* for the address *gpa*, a multiple of 64 below 4 GiB."""
    piece = _Piece(gpa)
    facs_gpa = piece.append(facs())
    dsdt_gpa = piece.append(table(b"DSDT", 2, SdtHeader(), dsdt.body(board)))
    listed = [piece.append(each) for each in _listed(board, facs_gpa, dsdt_gpa)]
    rsdt = piece.append(table(b"RSDT", 1, SdtHeader(), _pointers(listed, 4)))
    xsdt = piece.append(table(b"XSDT", 1, SdtHeader(), _pointers(listed, 8)))
    return Tables(_rsdp(rsdt, xsdt), bytes(piece.data))


def _listed(board: Board, facs_gpa: int, dsdt_gpa: int) -> list[bytes]:
    """The tables that RSDT and XSDT point to; the FADT comes first."""
    pm_timer_good = WaetFlags(pm_timer_good=1).raw
    made = [table(b"FACP", 6, fadt(board, facs_gpa, dsdt_gpa)), table(b"APIC", 5, *madt(board.vp_count)),
            table(b"WAET", 1, Waet(flags=pm_timer_good))]
    if board.has_pci:
        allocation = McfgAllocation(base=ECAM_GPA, end_bus=ECAM_BUSES - 1)
        made.append(table(b"MCFG", 1, Mcfg(), allocation.pack()))
    if board.hpet_block_id is not None:
        base = GenericAddress(space_id=AddressSpace.SYSTEM_MEMORY, bit_width=64, address=HPET_GPA)
        made.append(table(b"HPET", 1, HpetTable(block_id=board.hpet_block_id, base=base,
                                                minimum_tick=_HPET_MINIMUM_TICK)))
    if board.iommu is not None:
        made.append(dmar(board.iommu))
    return made


def dmar(unit: RemappingUnit) -> bytes:
    """The table of one remapping unit. VT-d "BIOS Considerations"."""
    scopes = b"".join(_scope(scope) for scope in unit.scopes)
    drhd = Drhd(type=DmarType.DRHD, length=Drhd.SIZE + len(scopes), flags=int(unit.includes_all), base=unit.base)
    header = Dmar(host_address_width=unit.host_address_width - 1, flags=int(unit.remaps_interrupts))
    return table(b"DMAR", 1, header, drhd.pack() + scopes)


def _scope(scope: Scope) -> bytes:
    bus, function = divmod(scope.source_id, 256)
    return DeviceScope(type=scope.kind, length=DeviceScope.SIZE, enumeration_id=scope.enumeration_id, start_bus=bus,
                       device=function >> 3, function=function & 7).pack()


def _pointers(gpas: list[int], size_bytes: int) -> bytes:
    return b"".join(gpa.to_bytes(size_bytes, "little") for gpa in gpas)


def _rsdp(rsdt_gpa: int, xsdt_gpa: int) -> bytes:
    rsdp = Rsdp(signature=RSDP_SIGNATURE, oem_id=OEM_ID, revision=2, rsdt_address=rsdt_gpa, length=Rsdp.SIZE,
                xsdt_address=xsdt_gpa)
    rsdp.checksum = checksum(rsdp.pack()[:FIRST_RSDP_SIZE])
    rsdp.extended_checksum = checksum(rsdp.pack())
    return rsdp.pack()
