"""Emulated devices: what a guest reaches by port I/O, answered by the worker of its VM. One file each.

* `uart16550` the serial port COM1
* `power` the switch that turns the VM off
"""
