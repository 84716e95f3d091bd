"""Which way a program is started: by the boot protocol of its kind, or as `docs/guests.md` has it for our own."""

from __future__ import annotations

from hv.image.errors import ImageError
from hv.image.model import BootOptions, Image
from hv.root import boot, boot_linux, boot_multiboot
from hv.root.boot import Information, Start
from hv.root.memory_map import MemoryMap


def start(image: Image, options: BootOptions, memory_map: MemoryMap, information: Information,
          rsdp_gpa: int = 0, name: str = "kernel") -> Start:
    """Memory and registers of a VM that starts *image*, whose own memory is included; ImageError when it does not fit,
    or was handed what its kind has no use for.

    *name* is what the program is told that it is called. *rsdp_gpa* is where the ACPI tables begin, 0 when there are
    none or the program shall look for them.
    """
    _check_options(image, options)
    if image.kind == "linux":
        made = boot_linux.start(image, options, memory_map, rsdp_gpa)
    elif image.kind == "multiboot":
        made = boot_multiboot.start(image, options, memory_map, name)
    else:
        made = boot.start(image, memory_map.memory_bytes, information)
    return made._replace(memory=made.memory | {segment.gpa: segment.data for segment in image.segments})


def _check_options(image: Image, options: BootOptions) -> None:
    """ImageError when something was handed to a program that has no use for it."""
    for what, given, kinds in (("a command line", options.command_line, ("linux", "multiboot")),
                               ("an initrd", options.initrd, ("linux",)),
                               ("a module", options.modules, ("multiboot",))):
        if given and image.kind not in kinds:
            raise ImageError(f"{what} is for kernels of kind {' and '.join(kinds)}, and this one is of "
                             f"kind {image.kind}", "leave it out")
