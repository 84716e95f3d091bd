"""Step-through labs and grading: a learner's program runs on the real machine, and what happened is judged.

An exercise is a folder with a `lab.toml`: what to write, how it is checked, hints, and the wrong answers it must know.
Nothing in it is code. Checks look at the events of the run and at the memory, registers and serial output it left
behind, so what a learner sees is what is graded; there is nothing like it in Hyper-V.

* `exercise.py`: the folder, read and validated; `setting.py`: its machine.
* `finding.py`: what a check is. `checks.py`: the kinds, and what each finds; such as `questions.py` (what happens?) and
  `walks.py` (is this how the processor walks?). `pattern.py`: which events are meant; `comparing.py`: line by line.
* `answers.py`: a learner's file of answers; `pieces.py`: a learner's Python, which runs in `sandbox/`.
* `faults.py`: bugs of the hypervisor for labs that diagnose; `telling.py`: a run told from its beginning.
* `runner.py`: one program on one machine, within the exercise's limits; mistakes of the learner are answers, never
  exceptions. `verify.py` proves that an exercise keeps what it promises.
* `report.py` shows findings to people, `grading.py` turns them into scores, `progress.py` remembers what is done.
* `result.py` is what is told about a graded submission; `formats/` writes it down for each course system.
* `variants.py` gives each student values of their own, drawn from the course key (`key.py`) and handed out by
  `handout.py`. `receipt.py` signs what happened (`evidence.py`), so that it can be run again and compared.
* `whole_class.py` grades many: `workers.py` with processes of this machine, `cluster.py` with those of others, into a
  report (`journal.py`) that can be taken up again. `sandbox/` runs a learner's Python.

May import everything; imported by `commands` only. Read `exercise.py` first, then `runner.py`.
"""
