"""From statements to addresses and bytes: the passes of the assembler.

Every pass forms all statements with the label addresses of the pass before, then lays them out again. When no
address moved, the bytes are right. A branch starts short and, once found too short, stays near, so branches cannot
swing for ever. An error in a pass counts only if it is still there when the addresses have settled.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace

from hv.image import verify
from hv.image.complaints import crashed, refused
from hv.image.data import NUMBERS, check_count, data_bytes
from hv.image.encode import reaches_short
from hv.image.errors import ImageError
from hv.image.expression import Lookup, constant
from hv.image.instruction import Instruction, Recipe, cut, finish, is_branch_to_label, prepare
from hv.image.operands import Imm, split_operands
from hv.image.registers import SIZES
from hv.image.source import Statement
from hv.image.worker import Worker, WorkerDied

MAX_PASSES = 32
MAX_BYTES = 16 << 20
MAX_ADDRESS = 1 << 52
MAX_EQUATES_DEEP = 64
DEFAULT_ORIGIN = {16: 0x7C00, 32: 0x10000, 64: 0x10000}
DIRECTIVES = (".bits", ".org", ".entry", ".equ", ".include", *NUMBERS, ".ascii", ".asciz", ".align", ".skip")
_DIRECTIVE = re.compile(r"(\.[A-Za-z]\w*)\s*", re.ASCII)
_NAME = re.compile(r"[.A-Za-z_][\w.]*$", re.ASCII)


@dataclass(slots=True)
class Item:
    """A statement that takes room or moves the location: an instruction, data, `.org`, `.align` or `.skip`."""

    statement: Statement
    scope: str                       # the last label that is not local
    bits: int
    directive: str = ""              # "" = an instruction
    operands: tuple[str, ...] = ()
    instruction: Instruction | None = None
    wide: bool = False
    recipe: Recipe | None = None
    code: bytes = b""
    error: ImageError | None = None

    def operands_text(self) -> tuple[str, ...]:
        return self.instruction.operands if self.instruction else self.operands


@dataclass(slots=True)
class Assembly:
    """A program while it is assembled; `segments`, `symbols` and `addresses` are right after `run`."""

    bits: int
    origin: int | None
    defines: dict[str, int]
    items: list[Item] = field(default_factory=list)
    labels: dict[str, tuple[int, Statement]] = field(default_factory=dict)     # name -> index of the item that follows
    equates: dict[str, tuple[str, str, Statement, int]] = field(default_factory=dict)     # the last as in `labels`
    entry: tuple[str, str, Statement] | None = None
    addresses: list[int] = field(default_factory=list)                         # per item, and one for the end
    segments: list[tuple[int, bytearray]] = field(default_factory=list)
    memo: dict[tuple[int, str], bytes | str] = field(default_factory=dict)
    resolving: list[str] = field(default_factory=list)
    constants: dict[str, int] = field(default_factory=dict)                    # equates worked out with `addresses`

    def run(self, statements: list[Statement], worker: Worker) -> None:
        """Assemble *statements*; ImageError for the first thing wrong."""
        self._collect(statements)
        self._settle(worker)
        for n, item in enumerate(self.items):
            if item.error is not None:
                raise item.error
            if item.instruction is not None and item.recipe is not None:
                try:
                    verify.check(item.instruction, item.recipe, item.code, self.addresses[n])
                except ImageError as error:
                    raise item.statement.error(error.message, error.hint) from None
        for name in self.equates:
            self._equate(name)      # one that nothing uses may be wrong, too

    # -- the first walk: labels, modes, names ------------------------------------------------------------------

    def _collect(self, statements: list[Statement]) -> None:
        scope, bits = "", self.bits
        for statement in statements:
            for label in statement.labels:
                scope = scope if label.startswith(".") else label
                self._define(statement, scope + label if label.startswith(".") else label)
            if not statement.text:
                continue
            try:
                bits = self._statement(statement, scope, bits)
            except ImageError as error:
                raise (error if error.line is not None else statement.error(error.message, error.hint)) from None

    def _define(self, statement: Statement, name: str) -> None:
        self._check_name(statement, name)
        self.labels[name] = (len(self.items), statement)

    def _check_name(self, statement: Statement, name: str) -> None:
        if name.lower() in SIZES:
            raise statement.error(f"{name} is a register", "choose another name")
        other = self.labels.get(name) or ((0, self.equates[name][2]) if name in self.equates else None)
        if other or name in self.defines:
            place = f"at {other[1].file}:{other[1].line}" if other else "by the caller"
            raise statement.error(f"{name} is already defined {place}", "choose another name, or a local `.again:`")

    def _statement(self, statement: Statement, scope: str, bits: int) -> int:
        match = _DIRECTIVE.match(statement.text)
        if not match:
            self.items.append(Item(statement, scope, bits, instruction=cut(statement.text, bits)))
            return bits
        name, rest = match[1].lower(), statement.text[match.end():]
        operands = split_operands(rest)
        if name in (".code16", ".code32", ".code64"):
            name, operands = ".bits", [name[-2:]]
        if name == ".bits":
            if operands not in (["16"], ["32"], ["64"]):
                raise ImageError(f"`{rest}` is no mode", "write .bits 16, .bits 32 or .bits 64")
            if not self.items:
                self.bits = int(operands[0])
            return int(operands[0])
        if name in (".equ", ".entry"):
            self._name_directive(name, operands, statement, scope)
        elif name in DIRECTIVES:
            check_count(name, operands)
            self.items.append(Item(statement, scope, bits, name, tuple(operands)))
        else:
            near = difflib.get_close_matches(name, DIRECTIVES, 1)
            raise ImageError(f"{name} is no directive here" + (f", did you mean {near[0]}?" if near else ""),
                             f"known: {' '.join(DIRECTIVES)}; a local label needs its colon")
        return bits

    def _name_directive(self, name: str, operands: list[str], statement: Statement, scope: str) -> None:
        if len(operands) != (2 if name == ".equ" else 1) or not _NAME.match(operands[0]):
            raise ImageError("a name was expected", f"write {'.equ NAME, value' if name == '.equ' else '.entry label'}")
        if name == ".equ":
            self._check_name(statement, operands[0])
            self.equates[operands[0]] = (operands[1], scope, statement, len(self.items))
        elif self.entry:
            raise ImageError(f"the entry is already named at line {self.entry[2].line}")
        else:
            self.entry = (operands[0], scope, statement)

    # -- names ---------------------------------------------------------------------------------------------------

    def lookup(self, scope: str, here: int) -> Lookup:
        """The values of names for a statement in *scope* at address *here*."""

        def find(name: str) -> int:
            full = scope + name if name.startswith(".") else name
            if name == "$":
                return here
            if full in self.labels:
                return self.addresses[self.labels[full][0]]
            if full in self.equates:
                return self._equate(full)
            if full in self.defines:
                return self.defines[full]
            known = [*self.labels, *self.equates, *self.defines]
            near = difflib.get_close_matches(full, known, 1) if len(known) < 2000 else []
            raise ImageError(f"`{name}` is not defined", f"did you mean `{near[0]}`?" if near else
                             "a label ends with a colon; constants are made by .equ NAME, value")

        return find

    def _equate(self, name: str) -> int:
        if name in self.constants:
            return self.constants[name]
        if name in self.resolving:
            raise ImageError(f"{name} is defined by itself: {' -> '.join([*self.resolving[:8], name])}")
        if len(self.resolving) > MAX_EQUATES_DEEP:
            raise ImageError(f"{self.resolving[0]} needs more than {MAX_EQUATES_DEEP} constants, one after the other",
                             "define a constant behind those it uses")
        text, scope, statement, index = self.equates[name]
        self.resolving.append(name)
        try:
            self.constants[name] = constant(text, self.lookup(scope, self.addresses[index]))
            return self.constants[name]
        except ImageError as error:
            raise (error if error.line is not None else statement.error(error.message, error.hint)) from None
        finally:
            self.resolving.pop()

    def find_entry(self, name: str) -> tuple[int, int]:
        """Address and mode of the first instruction to run, of the program called *name*."""
        items = zip(self.addresses, self.items, strict=False)
        modes = {address: item.bits for address, item in items if item.instruction}
        if self.entry:
            label, scope, statement = self.entry
            try:
                entry = self.lookup(scope, 0)(label)
            except ImageError as error:
                raise statement.error(error.message, error.hint) from None
        elif "start" in self.labels:
            entry = self.addresses[self.labels["start"][0]]
        elif modes:
            entry = next(iter(modes))
        else:
            raise ImageError(f"{name} has no instruction", "write at least one, such as hlt")
        if entry not in modes:
            raise ImageError(f"{name}: the entry {entry:#x} is not the start of an instruction",
                             "name a label before code")
        if modes[entry] == 16 and entry > 0xFFFF:
            raise ImageError(f"{name}: the 16-bit entry {entry:#x} is above 64 KiB",
                             "real mode starts with CS = 0: .org 0x7C00")
        return entry, modes[entry]

    # -- passes --------------------------------------------------------------------------------------------------

    def _settle(self, worker: Worker) -> None:
        self.addresses = [0] * (len(self.items) + 1)
        for item in self.items:
            item.code = bytes(3) if item.instruction else b""
        self._lay_out()
        for number in range(MAX_PASSES):
            self._form(worker, number > 0)
            before = list(self.addresses)
            self._lay_out()
            if number and before == self.addresses:
                return
        for item in self.items:
            if item.error is not None:
                raise item.error
        raise ImageError("the addresses do not settle: a length depends on itself",
                         "look for .skip, .org or .align that uses a label behind it")

    def _form(self, worker: Worker, may_widen: bool) -> None:
        wanted: dict[tuple[int, str], Item] = {}
        for n, item in enumerate(self.items):
            if item.instruction is None:
                continue
            try:
                item.error, item.recipe = None, self._prepare(item, self.addresses[n], may_widen)
            except ImageError as error:
                self._fail(item, error)
                continue
            key = (item.bits, item.recipe.text)
            if item.recipe.code is None and key not in self.memo:
                wanted.setdefault(key, item)
        self._ask(worker, wanted)
        for n, item in enumerate(self.items):
            if item.instruction is not None and item.error is None:
                self._finish(item, self.addresses[n])

    def _prepare(self, item: Item, here: int, may_widen: bool) -> Recipe:
        assert item.instruction is not None
        lookup = self.lookup(item.scope, here)
        try:
            recipe = prepare(item.instruction, lookup, here, item.wide or not may_widen)
        except ImageError:
            if item.wide or not may_widen:
                raise
            recipe = prepare(item.instruction, lookup, here, True)
        if item.wide or not is_branch_to_label(item.instruction, recipe.operands):
            return recipe
        if not may_widen:
            return replace(recipe, code=bytes(2))      # the labels are guesses yet: every branch begins short
        target = recipe.operands[0]
        assert isinstance(target, Imm)
        item.wide = not reaches_short(item.instruction.mnemonic, target.value, here, item.bits)
        return recipe

    def _ask(self, worker: Worker, wanted: dict[tuple[int, str], Item]) -> None:
        if not wanted:
            return
        try:
            answers = worker.assemble(list(wanted))
        except WorkerDied as death:
            if death.number < 0 and not death.late:
                raise ImageError("the assembler does not start", "is the package keystone-engine installed?") from None
            item = list(wanted.values())[max(0, min(death.number, len(wanted) - 1))]
            raise item.statement.error(*crashed(item.operands_text(), death.late)) from None
        self.memo.update(zip(wanted, answers, strict=True))

    def _finish(self, item: Item, here: int) -> None:
        assert item.instruction is not None
        assert item.recipe is not None
        raw = self.memo.get((item.bits, item.recipe.text), b"") if item.recipe.code is None else b""
        try:
            if isinstance(raw, str):
                raise refused(item.instruction.mnemonic, item.bits, _numbers(item.recipe), raw)
            item.code = finish(item.instruction, item.recipe, raw, here)
        except ImageError as error:
            self._fail(item, error)

    def _fail(self, item: Item, error: ImageError) -> None:
        item.error = error if error.line is not None else item.statement.error(error.message, error.hint)

    # -- layout --------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        location = self.origin if self.origin is not None else DEFAULT_ORIGIN[self.bits]
        self.segments, total, addresses = [(location, bytearray())], 0, []
        for item in self.items:
            addresses.append(location)
            if item.directive == ".org":
                location = self._org(item, location)
                self.segments.append((location, bytearray()))
                continue
            if item.instruction is None:
                self._data(item, location, MAX_BYTES - total)
            self.segments[-1][1].extend(item.code)
            location += len(item.code)
            total += len(item.code)
            if total > MAX_BYTES:
                raise item.statement.error(f"the program is larger than {MAX_BYTES >> 20} MiB")
        self.addresses = [*addresses, location]
        self.constants.clear()

    def _org(self, item: Item, location: int) -> int:
        try:
            value = constant(item.operands[0], self.lookup(item.scope, location))
            if not 0 <= value < MAX_ADDRESS:
                raise ImageError(f"address {value:#x} is out of range 0..{MAX_ADDRESS - 1:#x}")
            item.error = None
            return value
        except ImageError as error:
            self._fail(item, error)
            return location

    def _data(self, item: Item, location: int, room: int) -> None:
        try:
            item.code = data_bytes(item.directive, item.operands, self.lookup(item.scope, location), location, room)
            item.error = None
        except ImageError as error:
            self._fail(item, error)


def _numbers(recipe: Recipe) -> list[int]:
    return [operand.value for operand in recipe.operands if isinstance(operand, Imm)]
