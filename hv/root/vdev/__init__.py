"""Emulated devices: what a guest reaches by port I/O and in memory, answered by the worker of its VM. One file each.

* `uart16550` the serial port COM1
* `i8254` the interval timer, `pit_counter` one counter of it; `system_control` ports 0x61 and 0x92
* `rtc` the real-time clock and CMOS memory, `rtc_time` how it writes the time of day
* `byte_ports` what devices with registers of a byte have in common
* `power` the switch that turns the VM off, of a VM without a PC board
* `acpi_pm` the registers of ACPI: power off, power button, timer; `reset_control` port 0xCF9
* `pci_host` the PCI bus; `assigned_function` what a guest sees on it of a device of the machine
* `diagnostics` the POST display, and the exit for programs that test
"""
