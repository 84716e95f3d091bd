"""Guest programs as bytes: what a partition's memory holds before its first instruction runs.

In Hyper-V a worker process loads firmware into a new partition; here the loader takes an `Image`, made from
one of five kinds of file: assembly (`assembler.py`), an ELF executable (`elf.py`), a Linux kernel (`bzimage.py`), a
Multiboot kernel (`multiboot.py`) or a flat binary (`flat.py`). `load.py` tells them apart by content and suffix; read
it first.

The assembler is Keystone behind a guard, since Keystone assembles some of our instructions wrongly and dies of
others: it runs in a child process (`worker.py`), sees one instruction at a time with every symbol already
replaced, and what it answers is disassembled and compared (`verify.py`). Labels, directives, branches and far
jumps are ours (`passes.py`, `encode.py`), so mode switches in the middle of a program are ordinary.

Everything here takes hostile input: the only exception that leaves this room is `ImageError`.
It imports `spec` (and `whole_file`, to keep what took long to make); how a guest starts is written in docs/guests.md.
"""
