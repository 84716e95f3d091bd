"""Recorded runs of real guests, for the tests of this room: each is recorded once in a process."""

from functools import cache

from hv.commands.building import build, load_image
from hv.commands.description import MachineDescription, VmDescription, read
from hv.commands.files import find_guest
from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.platform import Machine
from hv.step.model import Model
from hv.step.sources import Sources
from hv.step.story import Story

LONG = 400_000_000              # ticks


@cache
def story_of(name):
    """The story of a guest, or of a machine that a file describes."""
    place = find_guest(name)
    description = read(place) if place.suffix == ".toml" else \
        MachineDescription([VmDescription(place.stem, place, device=name in ("dma", "attacker"))], [], 64)
    machine, vms = build(description)
    story = Story(machine, vms, {vm.name: load_image(vm.image) for vm in description.vms})
    story.record(LONG)
    return story


@cache
def story_of_source(source, ticks=LONG, events=100_000):
    """The story of a guest in a few lines."""
    machine = Machine(memory_mib=48)
    image = image_of(assemble(source, "test.asm", folders=(guests_folder(),)))
    story = Story(machine, [machine.create_vm("test", image)], {"test": image})
    story.record(ticks, events=events)
    return story


def model_of(name):
    """A look at it, at the beginning."""
    return Model(story_of(name), Sources([guests_folder()]))


def source_model(source, **limits):
    """The same of a guest in a few lines."""
    return Model(story_of_source(source, **limits))


def text(lines):
    """Lines of a pane as they are read."""
    return "\n".join("".join(piece for _, piece in line).rstrip() for line in lines)


def marked(lines, style):
    """The texts that have *style*."""
    return [piece for line in lines for kind, piece in line if style in kind.split()]
