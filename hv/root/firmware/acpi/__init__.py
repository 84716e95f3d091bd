"""The ACPI tables of a PC board: `tables.py` has them all, `dsdt.py` is written with the encoder of `aml.py`."""
