"""A learner's Python runs here: in a process of its own that can compute, answer, and do nothing else.

Assembly needs none of this, for it runs in the emulator. A piece of Python (an exit handler, an EPT walk) is the
learner's code on the host's own processor, so it gets a fresh process, an empty environment, a scratch folder as the
only place it may write, and layers that do not trust each other: resource limits, Landlock, a system call filter, no
capabilities, and bubblewrap's namespaces where `bwrap` is installed. What a host lacks is said, never passed over.

What the piece answers is a claim, bounded and decoded as plain data; the process that knows the hidden checks, the
solution and the marks never imports the piece and never sends it more than the arguments of a call.

* `piece.py`: the caller's side, `Piece.call`; `outcome.py`: what came of it. Read them first.
* `process.py`: the process from outside; `inside.py`: from inside; `keeper.py`: its parent, which leaves nothing
  running behind it.
* `confine.py`, `landlock.py`, `seccomp.py`, `bubble.py`: the protections, one by one.
* `wire.py`: frames on a pipe; `limits.py`: what a piece may use. `archive.py` unpacks what
  was handed in.

The modules that run inside import the standard library and msgspec alone.
"""
