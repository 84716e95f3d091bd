"""hvlab: an x86 hypervisor to learn on and debug on, built after Microsoft Hyper-V, on the Unicorn CPU engine."""

__version__ = "0.1.0"
