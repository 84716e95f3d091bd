"""The step-through screen: a run that was recorded, looked at one step at a time, forward and back.

    story = record(machine, vms, images)            what happened, in order (`story.py`)
    model = Model(story)                            where one is, and how one moves (`model.py`)
    model.move(FORWARD, "exit")
    print(frame(model))                             all panes as text (`plain.py`)

Two halves. The first one knows no screen: `reel.py` brings the machine to a place and takes down what is shown of it as
a `Moment` (`moment.py`); `stages.py` puts one VM exit under the microscope; `panes/` makes lines of styled text of
these (`text.py`), one file for each pane. The second half, `app/`, shows the lines with Textual and takes keys and the
mouse; nothing else imports Textual, and only `hv/commands/step.py` imports this room.

Read `model.py` first.
"""
