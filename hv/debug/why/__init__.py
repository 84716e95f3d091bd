"""Why did this exit, this fault, this missing interrupt happen: the chain of causes, and who set each of them when.

A question is asked about a machine that stands still. Each family (`exits.py` and its neighbours, `faults.py`,
`interrupts.py`, `dma.py`) looks at it and gives a chain of `Link`s as data: the control bit, the table entry, the state
of an APIC that decided, down to the first cause. It changes nothing: memory is read as a debugger reads it.

What a link rests on may be looked at again at any time (`Link.look`). So who set it is found by going back in a
recorded run to the event behind which it is what it is (`origin.py`); `visit.py` brings the user back to his place.

May import everything; imported by `debug/commands` and by `hv/step/`. Read `chain.py`, then `exits.py`.
"""
