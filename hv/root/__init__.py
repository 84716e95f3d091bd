"""The root partition: what owns the devices and manages the virtual machines. Ordinary software, above the hypervisor.

Root reaches the hypervisor through hypercalls only (`winhv.py`), and its own memory and processor through what
`processor.py` names. So nothing here imports the hypervisor, VMX or the machine; a test keeps it.

* `vid.py` takes the intercept messages of children from root's SynIC and hands them to the worker of the VM.
* `vmwp.py` is that worker: it makes the partition, loads the program, owns the emulated devices.
* `motherboard.py` knows which device answers at which port and address; `vdev/` are the devices. `answers.py` completes
  what is no device's, `crash.py` takes a guest's report of its own crash.
* `pc.py` is the board of a small PC: its devices, and their interrupt `lines.py`. `timers.py` is time for devices.
* `firmware/` is what the firmware of a PC leaves in memory: the tables of ACPI.
* `assignable.py` finds the machine's devices on its PCI bus; `device_of_vm.py` is one that a VM with a PC board has.
* `saved_vp.py` makes a VP a value, and a VP of it again.
* `boot.py` is the state a program starts in (`docs/guests.md`); `starting.py` finds the one of its kind.

Read `vmwp.py` first. May import spec, trace, image, instructions, pci; imported by platform, debug, lab and commands.
"""
