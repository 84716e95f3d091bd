"""What a parent asked to hear of: I/O ports, MSRs, CPUID leaves and exceptions of its child.

TLFS "HvCallInstallIntercept". Memory needs no asking: an access that the map does not allow is a message anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from hv.hypervisor.memory.pages import PagePool, Records
from hv.spec.intercepts import HvInterceptType

PORTS, PORT_MAP_PAGES = 1 << 16, 2      # one bit for each port in the processor's I/O bitmaps
INTERCEPT_SIZE = 16                     # bytes of a pool
_NO_PORTS = bytearray(PORTS)
_IO_PORT, _CPUID, _GLOBAL_CPUID = HvInterceptType.IO_PORT, HvInterceptType.CPUID, HvInterceptType.GLOBAL_CPUID
_PAID = (HvInterceptType.MSR, HvInterceptType.CPUID)        # any number of them


class InterceptTable:
    """What the parent installed. The partition's *pool* pays: a map of all ports takes the two pages of the processor's
    I/O bitmaps, however many ports are in it; an MSR or a CPUID leaf takes a record; the 32 exceptions are a register
    of the VMCS. All calls: *access* is bits of HV_INTERCEPT_ACCESS_MASK (1 read, 2 write, 4 execute)."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._installed: dict[tuple[int, int], int] = {}    # (HvInterceptType, parameter) -> access
        self._ports = _NO_PORTS                             # access by port
        self._port_pages: list[int] = []
        self.kinds: frozenset[int] = frozenset()            # of which there is, or was, any

    def install(self, kind: int, parameter: int, access: int) -> None:
        """Intercept *access*; 0 removes. INSUFFICIENT_MEMORY, and nothing changed."""
        if kind == _IO_PORT:
            self.install_ports(parameter, parameter, access)
            return
        known = (kind, parameter) in self._installed
        if access:
            if not known and kind in _PAID:
                self._records.take()
            self._installed[kind, parameter] = access
            self.kinds |= {int(kind)}
            if kind == _GLOBAL_CPUID:
                self.look_at_cpuid()
        elif known:
            del self._installed[kind, parameter]
            if kind in _PAID:
                self._records.give_back()

    def install_ports(self, first: int, last: int, access: int) -> None:
        """`install` for the ports *first* to *last*."""
        if access and not self._port_pages:
            self._port_pages = self._pool.allocate_all(PORT_MAP_PAGES)
            self._ports = bytearray(PORTS)
        if self._port_pages:
            self._ports[first : last + 1] = bytes((access,)) * (last + 1 - first)
            if self._ports.count(0) == PORTS:
                self._free_ports()

    def _free_ports(self) -> None:
        self._pool.free_all(self._port_pages)
        self._port_pages, self._ports = [], _NO_PORTS

    def clear(self) -> None:
        """Nothing is intercepted any more, and nothing paid for."""
        self._free_ports()
        self._records.give_back(self._records.count)
        self._installed.clear()

    @property
    def _records(self) -> Records:
        return self._pool.records("intercept", INTERCEPT_SIZE)

    def wants_port(self, port: int, access: int) -> int:
        """The parent wants to hear of *access* to *port* (0..0xFFFF): not 0."""
        return self._ports[port] & access

    def wants(self, kind: int, parameter: int, access: int) -> bool:
        """The parent wants to hear of this, which is neither a port nor a CPUID leaf."""
        return bool(self._installed.get((kind, parameter), 0) & access)

    def wants_cpuid(self, leaf: int) -> bool:
        """The parent wants to hear of this leaf, or of all."""
        installed = self._installed
        return (_CPUID, leaf) in installed or (_GLOBAL_CPUID, 0) in installed

    def look_at_cpuid(self) -> None:
        """Somebody has something to say about CPUID: from now on its handler asks."""
        self.kinds |= {int(_CPUID)}

    @property
    def exceptions(self) -> int:
        """The exceptions it wants to hear of, one bit for each vector."""
        return sum(1 << vector for kind, vector in self._installed if kind == HvInterceptType.EXCEPTION)

    def inspect(self) -> list[dict[str, int]]:
        """Plain data for the REPL; ports that follow each other are one row."""
        return [*self._port_ranges(), *({"type": kind, "parameter": parameter, "access": access}
                                        for (kind, parameter), access in sorted(self._installed.items()))]

    def _port_ranges(self) -> Iterator[dict[str, int]]:
        port = 0
        for access, run in groupby(self._ports):
            first, port = port, port + len(list(run))
            if access:
                yield {"type": int(_IO_PORT), "parameter": first, "last": port - 1, "access": access}
