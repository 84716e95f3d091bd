"""x86 instructions as data: what their bytes say, and what one that touches memory does to registers and flags.

Below everything that runs guests, so that whoever carries an instruction out in software does it by the same rules:
the processor on its virtual-APIC page, the hypervisor on its virtual APIC, a worker of root on the devices of its VM.
Nothing here reaches memory; callers bring it.

    registers.py            what an instruction needs to know of a processor
    decode.py               bytes -> Decoded: length, operands, and the summaries of the VM-exit qualifications
    arithmetic.py           results and flags
    memory_operations.py    one instruction with one memory operand, carried out
    moves.py                the moves among them, made ready to be done many times
    wide_integers.py        products, quotients, double shifts, scans, wide exchanges
    vectors.py              SSE and MMX: what moves data or combines bits
    stack.py                pushes, pops, calls and jumps
    port_strings.py         INS and OUTS
    execute.py              any instruction that touches memory, carried out by these

Imports `spec` only. First file to read: `decode.py`.
"""
