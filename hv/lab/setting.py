"""The machine of an exercise: the learner's VM, which is called `lab`, and others with given programs.

    [machine]
    vps = 2                             # of the learner's VM; optional, like all that follows
    device = true                       # assign it a DMA engine
    fault = "missing-eoi"               # a bug of the hypervisor towards the learner's VM (`faults.py`)
    apic_virtualization = false         # every access to an APIC is a VM exit, each EOI too; default true
    bare = true                         # no hypervisor: the learner's program has the processor (hv/bare_machine.py)
    other = "receiver"                  # named in its information block

    [[machine.vm]]
    name = "receiver"
    program = "receiver.asm"            # beside lab.toml, or one of our guests
    memory_mib = 16
    vps = 1
    device = false
    other = ""                          # `lab`, or a VM before it

    [[machine.connection]]              # what `from` sends on connection `id` arrives at SINT `sint` of `to`
    from = "lab"
    to = "receiver"
    id = 1
    kind = "message"                    # or "event", with `base` and `flags`; or "monitor", with `gpa`
    sint = 2

VMs are made in the order of the file; the learner's first of all, unless it names another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hv.bare_machine import BareMachine, BareProgram
from hv.image.assembler import assemble
from hv.image.c_source import load_c
from hv.image.errors import ImageError
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.image.model import Image
from hv.image.source import read_text
from hv.lab.faults import FAULTS, WITHOUT_APIC_VIRTUALIZATION
from hv.lab.finding import ANY, LEARNER
from hv.platform import DEVICE_COUNT, Machine, VirtualMachine
from hv.spec.synic import EVENT_FLAGS_COUNT

MACHINE_MIB = 16                # what root keeps, beside the memory of the VMs
Vps = Annotated[int, msgspec.Meta(ge=1, le=64)]
Mib = Annotated[int, msgspec.Meta(ge=1, le=256)]


class OtherVm(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A VM with a given program."""

    name: str
    program: str
    memory_mib: Mib = 16
    vps: Vps = 1
    device: bool = False
    other: str = ""


class Connection(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename={"sender": "from", "receiver": "to"}):
    """What *sender* sends on connection *id* arrives at *sint* of *receiver*; or they share a monitor page at *gpa*."""

    sender: str
    receiver: str
    id: Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFF)] = 1
    kind: Literal["message", "event", "monitor"] = "message"
    sint: Annotated[int, msgspec.Meta(ge=1, le=15)] = 2
    base: Annotated[int, msgspec.Meta(ge=0, le=2047)] = 0
    flags: Annotated[int, msgspec.Meta(ge=1, le=2048)] = 16
    gpa: Annotated[int, msgspec.Meta(ge=0, multiple_of=4096)] = 0


class Setting(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What there is beside the learner's program."""

    vps: Vps = 1
    device: bool = False
    other: str = ""
    apic_virtualization: bool = True
    fault: str = ""
    bare: bool = False
    vm: list[OtherVm] = []
    connection: list[Connection] = []

    def __post_init__(self) -> None:
        if self.bare and (self.vps > 1 or self.device or self.vm or self.fault or not self.apic_virtualization):
            raise ValueError("a bare machine has one processor, no device and no other VM: `bare` stands alone")
        if self.fault and self.fault not in FAULTS:
            raise ValueError(f"`{self.fault}` is no fault; expected {', '.join(sorted(FAULTS))}")
        names = [LEARNER, *(vm.name for vm in self.vm)]
        for name in names:
            if names.count(name) > 1 or name in (ANY, ""):
                raise ValueError(f"no VM beside the learner's can be called `{name}`, nor can two have one name")
        if self.other and self.other not in names[1:]:
            raise ValueError(f"there is no VM `{self.other}` for the learner's to know")
        made = [self.other, LEARNER] if self.other else [LEARNER]
        for vm in self.vm:
            if vm.other and (vm.other not in made or vm.name == self.other):
                raise ValueError(f"`other` of {vm.name} is `{vm.other}`; expected a VM made before it")
            made.append(vm.name)
        ids = [(one.sender, one.id) for one in self.connection]
        if len(set(ids)) < len(ids):
            raise ValueError("two connections of one sender have the same id")
        if any(one.base + one.flags > EVENT_FLAGS_COUNT for one in self.connection):
            raise ValueError(f"base + flags of a connection is more than {EVENT_FLAGS_COUNT}")
        if self.device + sum(vm.device for vm in self.vm) > DEVICE_COUNT:
            raise ValueError(f"a machine has {DEVICE_COUNT} devices")
        for end in (end for one in self.connection for end in (one.sender, one.receiver)):
            if end not in names:
                raise ValueError(f"a connection names `{end}`; expected one of {', '.join(names)}")

    @property
    def names(self) -> set[str]:
        """The VMs there are."""
        return {LEARNER, *(vm.name for vm in self.vm)}


def program(path: Path, own_includes: bool) -> Image:
    """The program in *path*; ImageError. *own_includes*: it is one's own, so it may include its neighbours, or be C.

    A compiler reads whatever file it is told to, so what others handed in is assembly.
    """
    if path.suffix.lower() == ".c":
        if not own_includes:
            raise ImageError(f"{path.name} is C, and what is graded is assembly", "hand in the .asm file")
        return load_c(path)
    shared = guests_folder()
    folders = ((path.parent,) if own_includes else ()) + ((shared,) if shared is not None else ())
    return image_of(assemble(read_text(path), path.name, folders=folders))


def given(folder: Path, name: str) -> Image:
    """The program *name* that the exercise in *folder* gives: a file of its own, or one of our guests; ImageError."""
    shared = guests_folder()
    places = [folder / name] + ([shared / name] if shared is not None else [])
    return program(next((place for place in places if place.is_file()), places[0]), True)


def build(setting: Setting, image: Image, memory_mib: int, folder: Path | None) -> tuple[
        Machine | BareMachine, dict[str, VirtualMachine] | dict[str, BareProgram], dict[str, Image]]:
    """The machine, its VMs and their programs by name; ImageError, MachineError."""
    if setting.bare:
        _check_size(image, memory_mib)
        bare = BareMachine(image, memory_mib, LEARNER)
        return bare, {LEARNER: bare.guest}, {LEARNER: image}
    images = {LEARNER: image}
    images |= {vm.name: given(folder or Path(), vm.program) for vm in setting.vm}
    sizes = {LEARNER: memory_mib, **{vm.name: vm.memory_mib for vm in setting.vm}}
    for name, one in images.items():
        _check_size(one, sizes[name])
    virtual = setting.apic_virtualization and setting.fault not in WITHOUT_APIC_VIRTUALIZATION
    machine = Machine(MACHINE_MIB + sum(sizes.values()), apic_virtualization=virtual)
    try:
        vms = _make_vms(machine, setting, images, memory_mib)
        for connection in setting.connection:
            machine.connect_as(connection, vms)
    except BaseException:
        machine.close()
        raise
    return machine, vms, images


def _check_size(image: Image, memory_mib: int) -> None:
    if image.end > memory_mib << 20:
        raise ImageError(f"the program reaches up to {image.end:#x}; the machine of this lab has {memory_mib} MiB",
                         "place it lower, with .org")


def _make_vms(machine: Machine, setting: Setting, images: dict[str, Image],
              memory_mib: int) -> dict[str, VirtualMachine]:
    learners = OtherVm(LEARNER, "", memory_mib, setting.vps, setting.device, setting.other)
    first = [vm for vm in setting.vm if vm.name == setting.other]
    vms: dict[str, VirtualMachine] = {}
    for vm in [*first, learners, *(vm for vm in setting.vm if vm not in first)]:
        vms[vm.name] = machine.create_vm(vm.name, images[vm.name], vm.memory_mib, vm.vps, vm.device, vms.get(vm.other))
    return vms
