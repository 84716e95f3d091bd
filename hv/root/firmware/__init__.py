"""What the firmware of a PC leaves in memory for the program that it starts. No firmware runs: the worker writes it.

* `place.py` decides what is where, and takes the room from the memory map. Read it first.
* `board.py` is what it has to know of the board; `acpi/` makes the tables of ACPI.
* `smbios.py`, `mp_table.py` and `bios_data.py` are for programs that look for older things, `coreboot.py` for those
  that were made to be started by coreboot.
"""
