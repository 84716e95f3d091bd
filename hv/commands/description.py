"""A described machine: `machine.toml` to plain objects, with one line about whatever is wrong in it.

    memory_mib = 128                    # of the whole machine; optional

    [[vm]]
    name = "sender"
    image = "hypercaller.asm"           # beside the description, or one of our guests
    memory_mib = 16                     # optional, like all that follow
    vps = 1
    device = false                      # assign it devices: true or "dma", "ring", or a list of them
    pc = false                          # true: a PC board, which kernels have anyway
    other = "receiver"                  # an earlier VM, named in the information block
    viommu = false                      # true: it has a remapping unit of its own, for its guest to program
    ignore_msrs = false                 # true: RDMSR of one that is not there gives 0, and WRMSR does nothing
    cmdline = "console=ttyS0"           # of a kernel; initrd and modules are files beside the description
    initrd = "initramfs.cpio.gz"        # of a Linux kernel
    modules = ["disk.img root"]         # of a Multiboot kernel: a file, and what it is told of it
    unpack = true                       # false: a Linux kernel unpacks itself
    on_reset = "restart"                # of a PC: or "reboot", after a triple fault too; or "end"

    [[connection]]                      # what `from` posts on connection `id` arrives at SINT `sint` of `to`
    from = "sender"
    to = "receiver"
    id = 1
    sint = 2

    [[connection]]                      # `from` signals events 0..`flags`-1 of that SINT, from `base` on
    from = "sender"
    to = "receiver"
    id = 2
    kind = "event"
    sint = 2
    base = 0
    flags = 16

    [[connection]]                      # both share a monitor page, each at `gpa`
    from = "sender"
    to = "receiver"
    id = 3
    kind = "monitor"
    gpa = 0x300000
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hv.commands import boot_options
from hv.commands.board import DEVICES
from hv.commands.errors import CommandError
from hv.commands.files import find_guest
from hv.image.load import kind_of
from hv.image.model import NO_OPTIONS, PC_KINDS, BootOptions
from hv.spec.synic import EVENT_FLAGS_COUNT
from hv.spec.x86 import PAGE_SIZE

DEFAULT_MACHINE_MIB, DEFAULT_VM_MIB, DEFAULT_KERNEL_MIB = 128, 16, 256
SMALLEST_MACHINE_MIB = 4
LARGEST_MACHINE_MIB, LARGEST_VM_MIB, MOST_VPS = 3840, 2048, 64
LARGEST_FILE_BYTES = 1 << 20
LONGEST_NAME = 60
HYPERVISOR_MIB = 16             # left of the machine for the hypervisor, root, and the tables of the children


@dataclass(frozen=True, slots=True)
class VmDescription:
    """One VM to make; *image* is an existing file."""

    name: str
    image: Path
    memory_mib: int = DEFAULT_VM_MIB
    vps: int = 1
    device: bool | str | Sequence[str] = False
    other: str = ""
    ignore_msrs: bool = False       # RDMSR of one that is not there gives 0
    pc: bool = False                # it has a PC board
    viommu: bool = False            # its guest programs a remapping unit of its own
    unpack: bool = True             # a Linux kernel is unpacked for it
    options: BootOptions = NO_OPTIONS
    on_reset: str = "restart"       # of a PC, one of ON_RESET

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of what is assigned to it, `DEVICES`."""
        if isinstance(self.device, bool):
            return DEVICES[:1] if self.device else ()
        return (self.device,) if isinstance(self.device, str) else tuple(self.device)


@dataclass(frozen=True, slots=True)
class ConnectionDescription:
    """What *sender* sends on connection *id* arrives at *sint* of *receiver*: messages, or events from *base* on.

    By *kind* "monitor" they share a page at *gpa* instead.
    """

    sender: str
    receiver: str
    id: int = 1
    kind: str = "message"
    sint: int = 2
    base: int = 0
    flags: int = 16
    gpa: int = 0


@dataclass(frozen=True, slots=True)
class MachineDescription:
    """A machine, its VMs in order, and the connections between them."""

    vms: list[VmDescription]
    connections: list[ConnectionDescription] = field(default_factory=list)
    memory_mib: int = DEFAULT_MACHINE_MIB
    root: bool = False              # its one VM is no child: the image is the root partition's program


_KINDS = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "a table"}
_TOP: dict[str, type] = {"memory_mib": int, "vm": list, "connection": list}
_VM: dict[str, type | tuple[type, ...]] = {"name": str, "image": str, "memory_mib": int, "vps": int,
                                           "device": (bool, str, list), "other": str,
                                           "ignore_msrs": bool, "on_reset": str, **boot_options.KEYS}
ON_RESET = ("restart", "reboot", "end")     # when its guest resets it; "reboot" is after a triple fault too
_CONNECTION: dict[str, type] = {"from": str, "to": str, "id": int, "kind": str, "sint": int, "base": int, "flags": int,
                                "gpa": int}
_OF_KIND = {"message": {"sint"}, "event": {"sint", "base", "flags"}, "monitor": {"gpa"}}


def single(place: Path, name: str, memory_mib: int | None = None, vps: int = 1,
           device: bool | Sequence[str] = False, ignore_msrs: bool = False,
           keys: Mapping[str, Any] | None = None, on_reset: str = "restart") -> MachineDescription:
    """The machine around one guest, with what *keys* (`boot_options.KEYS`) say of its start; CommandError."""
    kind = kind_of(place)
    memory = default_memory_mib(kind) if memory_mib is None else memory_mib
    in_range("--mem", memory, 1, LARGEST_VM_MIB)
    in_range("--smp", vps, 1, MOST_VPS)
    machine_mib = max(DEFAULT_MACHINE_MIB, memory + HYPERVISOR_MIB)
    start = _start(place.name, kind, keys or {}, memory, Path())
    return MachineDescription([VmDescription(name, place, memory, vps, device, ignore_msrs=ignore_msrs,
                                             on_reset=on_reset, **start)], [], machine_mib)


def default_memory_mib(kind: str) -> int:
    """Of a VM whose description does not say."""
    return DEFAULT_KERNEL_MIB if kind in PC_KINDS else DEFAULT_VM_MIB


def _start(where: str, kind: str, keys: Mapping[str, Any], memory_mib: int, folder: Path) -> dict[str, Any]:
    """The fields that say how a VM starts, of the keys of `boot_options`."""
    unpack = keys.get("unpack", True)
    if not unpack and kind != "linux":
        raise CommandError(f"{where} is no Linux kernel, and only these unpack themselves", "leave out what says so")
    return {"pc": keys.get("pc", False) or kind in PC_KINDS, "viommu": keys.get("viommu", False), "unpack": unpack,
            "options": boot_options.read(keys, memory_mib << 20, folder)}


def root(place: Path, name: str, memory_mib: int = DEFAULT_MACHINE_MIB, vps: int = 1) -> MachineDescription:
    """The machine whose root partition runs *place*; CommandError when a size is out of range."""
    in_range("--mem", memory_mib, SMALLEST_MACHINE_MIB, LARGEST_MACHINE_MIB)
    in_range("--smp", vps, 1, MOST_VPS)
    return MachineDescription([VmDescription(name, place, memory_mib, vps)], [], memory_mib, root=True)


def read(place: Path) -> MachineDescription:
    """The machine that the file *place* describes; CommandError says what is wrong, and where."""
    try:
        data = tomllib.loads(_content(place).decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{place.name} is no TOML: {error}", "docs/guests.md shows a description") from None
    except UnicodeDecodeError:
        raise CommandError(f"{place.name} is no UTF-8 text", "save it as UTF-8") from None
    except (ValueError, RecursionError):        # of the parser: 5000 digits, 5000 brackets
        raise CommandError(f"{place.name} has a number too long, or lists too deep, to be read",
                           "docs/guests.md shows a description") from None
    except OSError as error:
        raise CommandError(f"{place} cannot be read: {error.strerror}", "check the path and its permissions") from None
    return described(data, place)


def _content(place: Path) -> bytes:
    with place.open("rb") as file:
        content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise CommandError(f"{place.name} is larger than {LARGEST_FILE_BYTES >> 20} MiB", "is it a description?")
    return content


def as_table(description: MachineDescription) -> dict[str, Any]:
    """The description as parsed TOML, which `described` reads; of images their names only."""
    vms = [{"name": vm.name, "image": vm.image.name, "memory_mib": vm.memory_mib, "vps": vm.vps,
            "device": list(vm.devices), "other": vm.other, "pc": vm.pc,
            "ignore_msrs": vm.ignore_msrs, "viommu": vm.viommu, "on_reset": vm.on_reset} for vm in description.vms]
    connections = [{"from": one.sender, "to": one.receiver, "id": one.id, "kind": one.kind, **{
        key: getattr(one, key) for key in sorted(_OF_KIND[one.kind])}} for one in description.connections]
    return {"memory_mib": description.memory_mib, "vm": vms, "connection": connections}


def described(data: Mapping[str, Any], place: Path, beside: bool = True) -> MachineDescription:
    """The machine of parsed *data*; *place* is the file it came from. Images are files, unless they are not *beside*
    it: then only their names matter."""
    check_keys(place.name, data, _TOP, required=("vm",))
    folder = place.parent if beside else None
    vms = [_vm(f"{place.name}: vm {n}", table, folder) for n, table in enumerate(_tables(place, data, "vm"), 1)]
    if not vms:
        raise CommandError(f"{place.name} describes no vm", "write at least one [[vm]] with name and image")
    names = [vm.name for vm in vms]
    for name in names:
        if names.count(name) > 1:
            raise CommandError(f"{place.name}: two VMs are called `{name}`", "give each its own name")
    for n, vm in enumerate(vms):
        if vm.other and vm.other not in names[:n]:
            raise CommandError(f"{place.name}: `other` of {vm.name} is `{vm.other}`; expected a VM described before it",
                               f"there are {', '.join(names[:n]) or 'none'}")
    connections = [_connection(f"{place.name}: connection {n}", table, names)
                   for n, table in enumerate(_tables(place, data, "connection"), 1)]
    ids = [(connection.sender, connection.id) for connection in connections]
    for sender, id in ids:
        if ids.count((sender, id)) > 1:
            raise CommandError(f"{place.name}: two connections from {sender} have the id {id}", "give each its own id")
    _check_monitor_pages(place, connections)
    needed = sum(vm.memory_mib for vm in vms) + HYPERVISOR_MIB
    if needed > LARGEST_MACHINE_MIB:
        raise CommandError(f"{place.name}: its VMs need a machine of {needed} MiB; {LARGEST_MACHINE_MIB} is the most",
                           "give the VMs less memory_mib")
    memory_mib = data.get("memory_mib", max(DEFAULT_MACHINE_MIB, needed))
    in_range(f"{place.name}: memory_mib", memory_mib, needed, LARGEST_MACHINE_MIB)
    return MachineDescription(vms, connections, memory_mib)


def described_root(data: Mapping[str, Any], place: Path, beside: bool = True) -> MachineDescription:
    """`described`, of a machine whose root partition runs its one image."""
    description = described({**data, "memory_mib": LARGEST_MACHINE_MIB}, place, beside)
    if len(description.vms) != 1 or description.connections:
        raise CommandError(f"{place.name} describes {len(description.vms)} VMs; expected the root partition alone")
    (vm,) = description.vms
    return root(vm.image, vm.name, vm.memory_mib, vm.vps)


def _check_monitor_pages(place: Path, connections: list[ConnectionDescription]) -> None:
    """The page of each is at another address, in both VMs: one would hide the other, and its triggers with it."""
    taken: dict[tuple[str, int], int] = {}
    for n, connection in enumerate(connections, 1):
        for vm in dict.fromkeys((connection.sender, connection.receiver)):
            if connection.kind == "monitor" and (first := taken.setdefault((vm, connection.gpa), n)) != n:
                raise CommandError(f"{place.name}: the monitor pages of connections {first} and {n} are both at "
                                   f"{connection.gpa:#x} of {vm}", "give each its own gpa")


def check_keys(where: str, table: Mapping[str, Any], known: Mapping[str, type | tuple[type, ...]],
               required: tuple[str, ...]) -> None:
    """CommandError unless *table* has all of *required*, nothing but *known*, and values of the right type."""
    for key, value in table.items():
        if key not in known:
            raise CommandError(f"{where}: unknown key `{key}`; expected {', '.join(known)}", "is it misspelt?")
        wanted = known[key]
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if type(value) not in allowed:
            raise CommandError(f"{where}: `{key}` is {_KINDS.get(type(value), type(value).__name__)}; "
                               f"expected {' or '.join(_KINDS[kind] for kind in allowed)}", f"found {value!r}")
    for key in required:
        if key not in table:
            raise CommandError(f"{where}: `{key}` is missing", f"expected {', '.join(required)}")


def in_range(what: str, value: int, lowest: int, highest: int) -> None:
    """CommandError unless *lowest* <= *value* <= *highest*."""
    if not lowest <= value <= highest:
        raise CommandError(f"{what} is {value}; expected {lowest}..{highest}", "choose a value in that range")


def _tables(place: Path, data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = data.get(key, [])
    if not all(isinstance(table, dict) for table in tables):
        raise CommandError(f"{place.name}: `{key}` is a list of values; expected a list of tables", f"write [[{key}]]")
    return tables


def _vm(where: str, table: dict[str, Any], folder: Path | None) -> VmDescription:
    check_keys(where, table, _VM, required=("name", "image"))
    in_range(f"{where}: vps", table.get("vps", 1), 1, MOST_VPS)
    if table.get("on_reset", ON_RESET[0]) not in ON_RESET:
        raise CommandError(f"{where}: `on_reset` is `{table['on_reset']}`; expected one of {', '.join(ON_RESET)}")
    name = table["name"]
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise CommandError(f"{where}: `name` is {name!r}; expected 1..{LONGEST_NAME} printable characters",
                           "give it a name of its own")
    devices = VmDescription(name, Path(), device=table.get("device", False)).devices
    for kind in devices:
        if kind not in DEVICES:
            raise CommandError(f"{where}: there is no device {kind!r}", f"there are {', '.join(DEVICES)}")
    own = {key: value for key, value in table.items() if key not in boot_options.KEYS} | {"device": devices}
    if folder is None:
        in_range(f"{where}: memory_mib", table.get("memory_mib", DEFAULT_VM_MIB), 1, LARGEST_VM_MIB)
        return VmDescription(**{**own, "image": Path(table["image"])}, pc=table.get("pc", False))
    try:
        image = _beside(folder, table["image"]) or find_guest(table["image"])
        kind = kind_of(image)
        memory = table.get("memory_mib", default_memory_mib(kind))
        in_range("memory_mib", memory, 1, LARGEST_VM_MIB)
        start = _start(image.name, kind, table, memory, folder)
    except CommandError as error:
        raise CommandError(f"{where}: {error.message}", error.hint) from None
    return VmDescription(**{**own, "image": image, "memory_mib": memory}, **start)


def _beside(folder: Path, image: str) -> Path | None:
    try:
        return folder / image if image and (folder / image).exists() else None
    except (OSError, ValueError):       # a name no file can have: `find_guest` says what is wrong with it
        return None


def _connection(where: str, table: dict[str, Any], names: list[str]) -> ConnectionDescription:
    check_keys(where, table, _CONNECTION, required=("from", "to"))
    for key in ("from", "to"):
        if table[key] not in names:
            raise CommandError(f"{where}: `{key}` names `{table[key]}`; expected one of {', '.join(names)}",
                               "a connection joins two of the VMs above")
    in_range(f"{where}: id", table.get("id", 1), 1, 0xFFFFFF)
    kind = table.get("kind", "message")
    if kind not in _OF_KIND:
        raise CommandError(f"{where}: `kind` is `{kind}`; expected one of {', '.join(_OF_KIND)}")
    known = {key: of for key, of in _CONNECTION.items() if key in _OF_KIND[kind] or key in ("from", "to", "id", "kind")}
    check_keys(f"{where} ({kind})", table, known, required=("gpa",) if kind == "monitor" else ())
    made = ConnectionDescription(table["from"], table["to"], **{key: value for key, value in table.items()
                                                               if key not in ("from", "to")})
    in_range(f"{where}: sint", made.sint, 1, 15)
    in_range(f"{where}: base", made.base, 0, EVENT_FLAGS_COUNT - 1)
    in_range(f"{where}: flags", made.flags, 1, EVENT_FLAGS_COUNT - made.base)
    if not 0 <= made.gpa < LARGEST_VM_MIB << 20:
        raise CommandError(f"{where}: gpa is {made.gpa:#x}; expected 0..{(LARGEST_VM_MIB << 20) - PAGE_SIZE:#x}",
                           "choose a page in that range")
    if made.gpa % PAGE_SIZE:
        raise CommandError(f"{where}: `gpa` is {made.gpa:#x}; expected a multiple of {PAGE_SIZE:#x}", "it is a page")
    return made
