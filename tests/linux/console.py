"""A guest's serial console, as somebody sits before it: read to the prompt, type a line, read on."""

PROMPT = "hvlab# "
SLICE_TICKS = 200_000_000           # 100 ms


class Console:
    """The console of *vm* on *machine*, for at most *seconds* of virtual time."""

    def __init__(self, machine, vm, seconds=60):
        self.machine, self.vm = machine, vm
        self.limit = machine.clock.tsc + seconds * 2_000_000_000
        self.text = ""
        vm.on_serial(self._hear)

    def _hear(self, text):
        self.text += text

    def until(self, wanted):
        """Run until *wanted* was printed behind what was read before; what came up to there, and it is read."""
        while wanted not in self.text and self.vm.ended is None and self.machine.clock.tsc < self.limit:
            self.machine.run(self.machine.clock.tsc + SLICE_TICKS, paused=lambda: wanted in self.text)
        before, found, self.text = self.text.partition(wanted)
        assert found, f"{wanted!r} never came; the VM {self.vm.ended or 'still runs'}, it printed:\n{before[-3000:]}"
        return before

    def command(self, line):
        """Type *line* at the prompt; what it prints."""
        self.vm.type(line + "\n")
        self.until(line + "\r\n")       # the terminal's echo
        return self.until(PROMPT).replace("\r\n", "\n")

    def end(self, line):
        """Type *line*, which ends the VM; what is printed until then."""
        self.vm.type(line + "\n")
        self.machine.run(self.limit)
        return self.text.replace("\r\n", "\n")
