"""The commands of the REPL, one file for each kind of question. Importing this registers them all."""

from hv.debug.commands import (  # noqa: F401
    changing,
    control,
    exporting,
    help,
    interrupts,
    masking,
    memory,
    parent,
    partitions,
    past,
    raising,
    registers,
    running,
    serial,
    stopping,
    story,
    why,
    writing,
)
