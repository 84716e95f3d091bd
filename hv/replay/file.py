"""A replay file: a recorded run that goes on again, byte for byte, on another machine.

It holds all that the run came from: the programs of the VMs with their memory and connections, and the acts of the
recording, with what somebody changed from outside. Two fingerprints say whether the run is the same one: of the machine
before its first act, and of the machine behind its last. JSON, the same bytes for the same recording.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hv.image.model import BootOptions, Image, Module, Segment
from hv.replay.acts import Act
from hv.replay.fingerprint import fingerprint
from hv.replay.position import Position
from hv.replay.recording import Recording
from hv.replay.refusal import ChangeRefused

LARGEST_FILE_BYTES = 512 << 20
Address = Annotated[int, msgspec.Meta(ge=0, lt=1 << 52)]


class ReplayError(Exception):
    """This is no recording that can go on again; the message is one line."""


class KeptSegment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Segment`."""

    gpa: Address
    data: bytes
    writable: bool
    executable: bool


class KeptImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Image`."""

    kind: str
    segments: list[KeptSegment]
    entry: Address
    bits: Annotated[int, msgspec.Meta(ge=16, le=64, multiple_of=16)]
    symbols: dict[str, int]
    lines: dict[int, int]
    places: dict[int, str]
    setup: bytes = b""
    needs: Address = 0

    @classmethod
    def of(cls, image: Image) -> KeptImage:
        """*image* as it is kept."""
        return cls(image.kind, [KeptSegment(*segment) for segment in image.segments], image.entry, image.bits,
                   dict(image.symbols), dict(image.lines), dict(image.places), image.setup, image.needs)

    def image(self) -> Image:
        """As the machine is given it."""
        segments = [Segment(each.gpa, each.data, each.writable, each.executable) for each in self.segments]
        return Image(self.kind, segments, self.entry, self.bits, self.symbols, self.lines, self.places, self.setup,
                     self.needs)


class KeptModule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Module`."""

    content: bytes
    text: str


class KeptOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`BootOptions`."""

    command_line: str = ""
    initrd: bytes = b""
    modules: list[KeptModule] = []

    @classmethod
    def of(cls, options: BootOptions) -> KeptOptions:
        """*options* as they are kept."""
        return cls(options.command_line, options.initrd, [KeptModule(*module) for module in options.modules])

    def options(self) -> BootOptions:
        """As the machine is given them."""
        return BootOptions(self.command_line, self.initrd,
                           tuple(Module(each.content, each.text) for each in self.modules))


class KeptMachine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the machine was made from: *description* as a machine's TOML has it, and the program of each of its VMs."""

    root: bool
    description: dict[str, Any]
    images: list[KeptImage]
    options: list[KeptOptions] = []     # of each VM; none where no VM was handed anything


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    hvlab_replay: Literal[1]
    engine: str                     # whose version it was recorded with
    machine: KeptMachine
    begin: str                      # fingerprints
    acts: list[Act]
    end: str

    def encoded(self) -> bytes:
        """What stands in the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read(place: Path) -> Replay:
    """The file *place*; ReplayError says what is wrong with it."""
    try:
        with place.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ReplayError(f"{place} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > LARGEST_FILE_BYTES:
        raise ReplayError(f"{place.name} is larger than {LARGEST_FILE_BYTES >> 20} MiB")
    try:
        return msgspec.json.decode(content, type=Replay)
    except (msgspec.DecodeError, ChangeRefused, UnicodeError, RecursionError) as error:
        raise ReplayError(f"{place.name} is no replay file: {error}".replace("\n", " ")) from None


def engine_version() -> str:
    """Of the engine that runs here."""
    return f"unicorn {version('unicorn')}"


def kept(recording: Recording, machine: KeptMachine) -> Replay:
    """What *recording* is, of a machine that was made from *machine*. It stands at its end afterwards."""
    recording.go(Position())
    begin = fingerprint(recording.machine)
    recording.go_to_end()
    return Replay(1, engine_version(), machine, begin, list(recording.acts), fingerprint(recording.machine))
