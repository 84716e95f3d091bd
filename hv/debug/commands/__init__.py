"""The commands of the REPL, one file for each kind of question. Importing this registers them all."""

from hv.debug.commands import (
    control,
    help,
    interrupts,
    memory,
    partitions,
    past,
    registers,
    running,
    stopping,
    story,
    why,
)

__all__ = ["control", "help", "interrupts", "memory", "partitions", "past", "registers", "running", "stopping", "story",
           "why"]
