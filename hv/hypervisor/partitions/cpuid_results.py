"""What a parent wants CPUID to answer in a child, told beforehand; TLFS "HvCallRegisterInterceptResult".

A result replaces the bits of its masks in what the hypervisor would answer. It stands in for the message where the leaf
is intercepted; with *always_override* it is answered where it is not, too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.pages import PagePool, Records
from hv.hypervisor.partitions.processor_leaves import Answer
from hv.spec.hv_status import HvStatus
from hv.spec.partition import ANY_VP

RESULT_SIZE = 64                        # bytes of a pool
Key = tuple[int, int, int | None]       # VP index or ANY_VP, leaf, subleaf or None for all of them
_LOW = 0xFFFF_FFFF


class CpuidResult(NamedTuple):
    """What is replaced: *mask* says which bits of EAX, EBX, ECX, EDX come from *value*."""

    value: Answer
    mask: Answer
    always_override: bool = False

    def over(self, answer: Answer) -> Answer:
        """*answer* with the bits of the result."""
        eax, ebx, ecx, edx = (mine & mask | other & ~mask & _LOW
                              for mine, mask, other in zip(self.value, self.mask, answer, strict=True))
        return eax, ebx, ecx, edx


class CpuidResults:
    """The results of one partition, paid from its *pool*. One for a VP comes before one for all of them, and one for a
    subleaf before one for the leaf."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._results: dict[Key, CpuidResult] = {}

    def register(self, key: Key, result: CpuidResult) -> None:
        """Answer *result*, instead of what was registered under *key*; INSUFFICIENT_MEMORY."""
        if key not in self._results:
            self._records.take()
        self._results[key] = result

    def unregister(self, key: Key) -> None:
        """Forget it; INVALID_PARAMETER when nothing was registered under *key*."""
        if key not in self._results:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"leaf {key[1]:#x}: no result is registered")
        del self._results[key]
        self._records.give_back()

    def find(self, vp_index: int, leaf: int, subleaf: int) -> CpuidResult | None:
        """The result that a CPUID of this VP gets."""
        for vp in (vp_index, ANY_VP):
            for sub in (subleaf, None):
                found = self._results.get((vp, leaf, sub))
                if found is not None:
                    return found
        return None

    def forget_vp(self, vp_index: int) -> None:
        """The VP is gone, and what was registered for it alone."""
        for key in [key for key in self._results if key[0] == vp_index]:
            self.unregister(key)

    def clear(self) -> None:
        """Nothing is registered any more, and nothing paid for."""
        self._records.give_back(len(self._results))
        self._results.clear()

    @property
    def _records(self) -> Records:
        return self._pool.records("CPUID result", RESULT_SIZE)

    def inspect(self) -> list[dict[str, Any]]:
        """Plain data for the REPL, in the order in which they were registered."""
        return [{"vp": vp, "leaf": leaf, "subleaf": subleaf, "value": list(result.value), "mask": list(result.mask),
                 "always": result.always_override} for (vp, leaf, subleaf), result in self._results.items()]
