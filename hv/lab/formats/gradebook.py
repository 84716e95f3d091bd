"""CSV for a grade book: a line for each submission.

The columns are those that grade books look for; `email` and `finished_at` are empty, for a result holds nothing that
another run could not give, and `seed` has the values of the student's variant. A cell that a spreadsheet would
compute is text here. `result_sha256` is the hash of the same submission's own JSON, to find a line again by.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence

from hv.lab.formats import native
from hv.lab.formats.registry import whole_class
from hv.lab.result import Result
from hv.lab.words import plain

COLUMNS = ("student_id", "email", "lab", "score", "max_score", "status", "finished_at", "seed", "tool_version",
           "result_sha256")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@whole_class("csv", "grades.csv")
def write(results: Sequence[Result]) -> str:
    """A header and a line for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in _row(one)] for one in results)
    return text.getvalue()


def _row(one: Result) -> tuple[object, ...]:
    digest = hashlib.sha256(native.write_alone(one).encode()).hexdigest()
    return (one.submission, "", one.exercise, plain(one.score), plain(one.max_score), str(one.status), "", one.variant,
            one.tool, digest)


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
