"""PCI functions as software sees them: configuration space, base addresses, message signalled interrupts.

A machine's functions and the virtual ones that root shows to a VM keep the same rules, so those stand here, below both:
what a register lets software change, which address a BAR decodes, which message is sent now and which one waits.
Nothing here sends, and nothing reaches memory; the owner of a function does.

    config.py           configuration space: bytes, which of them software may change, and the list of capabilities
    bars.py             base addresses: what all ones read back as, and where a BAR answers
    msi.py, msix.py     which message an interrupt is, and those that wait behind a mask
    enumeration.py      finding the functions of a bus, and giving addresses to their BARs, as firmware does

Imports `spec` only. First file to read: `config.py`.
"""
