"""A machine held still, and the place one looks at: one VP of one VM.

`do(line)` is the whole interface: it gives the text to print, and raises DebugError for what cannot be done. Python
has the last word: a line that is no command, or begins with `!`, is an expression over the live objects.
"""

from __future__ import annotations

import codeop
import importlib
import keyword
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hv.debug.children import children
from hv.debug.conditions import Condition, Missing
from hv.debug.errors import DebugError
from hv.debug.facts import Fact, Recording
from hv.debug.numbers import REGISTERS, address, number
from hv.debug.places import Places
from hv.debug.registry import NAMES, find, first_word, without_comment
from hv.debug.render import outline, render
from hv.debug.transcript import Transcript
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.image.model import Image
from hv.machine.faults import BusError, GuestFault, NestedFault
from hv.printable import one_line, printable
from hv.replay.changes import AnyChange
from hv.replay.refusal import ChangeRefused
from hv.trace.bus import Record

if TYPE_CHECKING:
    from hv.debug.why.failures import Failure
    from hv.replay.timeline import Timeline

KEPT_EVENTS = 20_000
PYTHON = "<repl>"           # the file name of what the user writes in Python
_STATEMENTS = frozenset(keyword.kwlist) - {"del"}       # `del 1` is `delete 1`
_TRANSLATED = (BusError, GuestFault, NestedFault, HypercallError)


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Stop before the instruction at *gva* runs on any VP of *vm*."""

    vm: str
    gva: int


@dataclass(frozen=True, slots=True)
class EventStop:
    """Stop at an event of which all *tests* are true; *words* are the user's own."""

    words: str
    tests: tuple[Condition, ...]

    def matches(self, fact: Fact) -> bool:
        """It is such an event."""
        return all(test(fact) for test in self.tests)


class Session:
    """*machine* and its *vms*; *images* by VM name give the symbols. *interrupted* says whether to stop running;
    *before* is what was heard of the machine until now, while its VMs were made."""

    def __init__(self, machine: Any, vms: list[Any], images: dict[str, Image] | None = None,
                 before: Iterable[Record] = ()) -> None:
        importlib.import_module("hv.debug.commands")    # registers them; they import this module
        self.machine, self.vms = machine, vms
        self.recent = Recording(machine, KEPT_EVENTS, {vm.partition_id: vm.name for vm in vms})
        self.before = deque(before, KEPT_EVENTS)    # events that a recording does not have
        machine.trace.listen(self.recent)
        self.vm, self.vp_index = vms[0], 0
        self.breakpoints: list[Breakpoint] = []
        self.stops: list[EventStop] = []
        self.interrupted: Callable[[], bool] = lambda: False
        self.finished = False
        self.places = Places(images or {})
        self.variables: dict[str, Any] = {}
        self.transcript = Transcript()              # of what `do` was asked, and answered
        self.timeline: Timeline | None = None       # while the run is recorded
        self.failure: Failure | None = None         # the error that ended the last run that broke
        self.crashes_told: set[str] = set()         # names of VMs
        self.limit_tsc: int | None = None           # so far the machine is let run, where nobody says how far
        self.made_from: Callable[[], Any] | None = None     # what a replay file says of the machine

    def keeps(self, timeline: Timeline) -> None:
        """The run is recorded from now on."""
        self.timeline = timeline
        self.before.extend(self.recent.records)
        timeline.on_restore, timeline.interrupted = self.recent.clear, lambda: self.interrupted()

    def change(self, change: AnyChange) -> None:
        """Carry out *change*; DebugError in one line when the machine does not take it, and nothing was changed."""
        timeline = self.timeline
        if timeline is not None and not timeline.live:
            raise DebugError(f"{timeline.position} is in the past", "`branch` lets the run go on from here, and "
                             f"forgets what is recorded behind it, up to {timeline.end}; `goto end` goes there")
        try:
            if timeline is None:
                change.apply(self.machine)
            else:
                timeline.change(change)
        except ChangeRefused as error:
            raise DebugError(str(error)) from None

    # --- where one looks -------------------------------------------------------------------------------

    @property
    def guests(self) -> list[Any]:
        """All that run machine code: the VMs, and the children that a root of machine code has made."""
        return [*self.vms, *children(self.machine, self.vms)]

    @property
    def found_vp(self) -> VirtualProcessor | None:
        """The VP looked at, if it is still there."""
        return self.vps_of(self.vm).get(self.vp_index)

    def vps_of(self, vm: Any) -> dict[int, VirtualProcessor]:
        """Its VPs by index; none of a partition that is gone or finalized: their registers went with its engine."""
        partition = self.machine.hypervisor.partitions.get(vm.partition_id)
        if partition is None or partition.state is not PartitionState.ACTIVE:
            return {}
        return dict(sorted(partition.vps.items()))

    @property
    def vp(self) -> VirtualProcessor:
        """The VP looked at; DebugError when there is none any more."""
        found = self.found_vp
        if found is None:
            raise DebugError(f"{self.vm.name} has no vp {self.vp_index} any more", "`partitions` shows what is there")
        return found

    @property
    def linear_rip(self) -> int:
        """The linear address of the next instruction."""
        return self.vp.regs.linear_rip

    @property
    def prompt(self) -> str:
        """Who is looked at, and where it is: `timer.0 start+0x12> `."""
        vp = self.found_vp
        where = self.places.name(self.vm.name, vp.regs.linear_rip) if vp is not None else "gone"
        return f"{printable(self.vm.name)}.{self.vp_index} {printable(where)}> "

    def vm_called(self, name: str) -> Any:
        """A VM by name, or by number counted from 1; DebugError."""
        for position, vm in enumerate(self.guests, 1):
            if name in (vm.name, str(position)):
                return vm
        raise DebugError(f"`{name}` is no VM", f"there are {', '.join(vm.name for vm in self.guests)}")

    def look_at(self, text: str) -> None:
        """Look at another VP: `1`, or `receiver.0`; DebugError."""
        name, dot, index = text.rpartition(".")
        vm = self.vm_called(name) if dot else self.vm
        indexes = {str(number): number for number in self.vps_of(vm)}
        if index not in indexes:
            raise DebugError(f"{vm.name} has no vp `{index}`", f"it has {', '.join(indexes) or 'none'}")
        self.vm, self.vp_index = vm, indexes[index]

    def look_where(self, fact: Fact) -> None:
        """Look at the VP in which *fact* happened; where it is none of a VM, one looks on at the same."""
        for vm in self.guests:
            if vm.partition_id == fact.record.partition and fact.record.vp in self.vps_of(vm):
                self.vm, self.vp_index = vm, fact.record.vp

    def condition(self, source: str, live: bool = False) -> Condition:
        """*source* over events and symbols of the program; *live*: over the registers at the event too. DebugError."""
        registers = {name: partial(self._register_now, name) for name in REGISTERS} if live else {}
        return Condition(source, self.places.symbols(self.vm.name), registers)

    def _register_now(self, name: str) -> int:
        """A register of the VP that the last event happened in."""
        record = self.recent.records[-1]
        partition = self.machine.hypervisor.partitions.get(record.partition)
        vp = None if partition is None else partition.vps.get(record.vp)
        if not isinstance(vp, VirtualProcessor):
            raise Missing(name)
        value: int = getattr(vp.guest_regs, name)
        return value

    # --- a line ----------------------------------------------------------------------------------------

    def do(self, line: str) -> str:
        """Carry out *line*; the text to print. DebugError in one line when that cannot be done."""
        prompt = self.prompt
        try:
            text = render(self.value(line))
        except DebugError as error:
            self.transcript.note(prompt, line, f"error: {one_line(str(error))}", refused=True)
            raise
        self.transcript.note(prompt, line, text)
        return text

    def value(self, line: str) -> Any:
        """Carry out *line*; what came of it, as it is. DebugError."""
        line = line.strip()
        if not line or line.startswith("#"):
            return None
        try:
            answer = self._answer(line)
            if self.machine.closed:
                self.finished = True        # nothing of it may be looked at any more
                return "the machine is closed; so is the session"
            return answer
        except _TRANSLATED as error:
            raise DebugError(in_words(error)) from None
        except DebugError:
            raise
        except Exception as error:          # ours, or the user's: the machine stands where it broke
            importlib.import_module("hv.debug.why.failures").failed(self, error)
            raise

    def _answer(self, line: str) -> Any:
        if self.is_python(line):
            return self.python(line.removeprefix("!").strip())
        word, rest = first_word(line)
        arguments = without_comment(rest).strip()
        if not arguments and word.endswith("()") and word[:-2] in NAMES:
            word = word[:-2]        # as in Python: help(), quit()
        entry = find(word)
        return entry.function(self, *entry.arguments(self, arguments))

    def is_python(self, line: str) -> bool:
        """*line* is Python: it says so by `!`, or it is no command and looks like an expression or a statement."""
        if line.startswith("!"):
            return True
        word, rest = first_word(line)
        if word.isidentifier() and re.match(r"=[^=]", rest):
            return True
        if word in NAMES or (word.endswith("()") and word[:-2] in NAMES
                              and not rest.partition("#")[0].strip()):
            return False
        if not re.fullmatch(r"[a-z]+", word) or word in _STATEMENTS:
            return True
        return word in self.namespace() or re.match(r"\s*(=[^=]|[.\[(+*/|&^<>-])", rest) is not None

    def is_incomplete(self, text: str) -> bool:
        """*text* is the beginning of Python that goes on in another line. An empty line ends a block."""
        if not text.strip() or not self.is_python(text.strip()):
            return False
        source = text.lstrip().removeprefix("!").lstrip(" ").rstrip(" ")
        try:
            if codeop.compile_command(source, PYTHON, "single") is not None:
                return False
            return "\n" in source or codeop.compile_command(source, PYTHON, "exec") is None
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
            return False            # complete, and wrong: that is said when it is carried out

    def number(self, text: str) -> int:
        """The value of an expression over numbers, registers of the VP, and symbols of its program; DebugError."""
        return number(text, self._names())

    def address(self, text: str) -> int:
        """The same as an address, 0..2^64-1; DebugError."""
        return address(text, self._names())

    def _names(self) -> dict[str, int]:
        names = dict(self.places.symbols(self.vm.name))
        vp = self.found_vp
        if vp is not None:
            names |= {name: getattr(vp.guest_regs, name) for name in REGISTERS}
        return names

    def namespace(self) -> dict[str, Any]:
        """What Python expressions see."""
        vp, machine, vm = self.found_vp, self.machine, self.vm
        live = {"machine": machine, "session": self, "vm": vm, "vms": self.vms,
                "partition": machine.hypervisor.partitions.get(vm.partition_id), "vp": vp,
                "regs": vp.guest_regs if vp is not None else None, "trace": machine.trace,
                "hypervisor": machine.hypervisor, "root": getattr(machine, "root", None)}
        return {**live, **self.variables}

    def python(self, source: str) -> Any:
        """The value of an expression over the live objects, or None of a statement; DebugError."""
        names = self.namespace()
        before = dict(names)
        try:
            try:
                return outline(eval(compile(source, PYTHON, "eval"), names))
            except SyntaxError:
                exec(compile(source, PYTHON, "exec"), names)
        except DebugError:
            raise
        except KeyboardInterrupt:
            raise DebugError("interrupted") from None
        except SystemExit:
            raise DebugError("Python was asked to end; that does not end the session", "`quit` does") from None
        except BaseException as error:      # the user's own program: any error of it is an answer
            raise DebugError(f"{type(error).__name__}: {error}".replace("\n", " ")) from None
        self.variables.update({name: value for name, value in names.items()
                               if name != "__builtins__" and before.get(name) is not value})
        return None


def in_words(error: Exception) -> str:
    """A fault that looking at something met, in one line."""
    match error:
        case GuestFault():
            at = f" at {error.address:#x}" if error.address is not None else ""
            code = f", error code {error.error_code:#x}" if error.error_code is not None else ""
            return f"the guest would get exception {error.vector}{at}{code}: nothing is mapped for it there"
        case NestedFault():
            return f"guest-physical {error.gpa:#x} is not mapped for that access: an EPT violation"
        case _:
            return str(error)
