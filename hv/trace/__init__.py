"""What happened, and who listens.

Each room says what it did as a fact: a frozen event such as `Cpuid` or `Injected`. It says so once, to the machine's
one `Trace`, which adds the sequence number, the virtual time, and the partition and VP that ran. Everybody who shows
or judges something (REPL, labs, grader, demo, tests, timeline) reads these same events, so what a learner sees is
what is graded. Hyper-V's counterpart is its event log buffers and the ETW providers above them.

Time here is virtual: the same guest gives the same events, byte for byte.

Every room but `spec` may import this one; it imports `spec` only. It knows nothing of VmExit objects: a listener tells
one by its attributes.

Read `bus.py` first, then `events.py`, which is the vocabulary. `chrome.py` is a listener worth copying: it writes the
file that Perfetto opens.
"""
