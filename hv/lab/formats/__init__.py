"""Results as other systems read them: a file for each format, a line here to register it.

A format is a function from results to text; it reads the `Result` of `hv/lab/result.py`, and nothing else. Each file
says which rules of its format it keeps, and what that format cannot say. Whatever a result holds, the text is
well-formed, UTF-8, and the same bytes every time.

To add one: a file with a function under `@one_submission` or `@whole_class` (`registry.py`), and its line below.
"""

from hv.lab.formats import (  # noqa: F401  the inventory, in reading order
    classroom,
    gradebook,
    gradescope,
    junit,
    markdown,
    native,
    prairielearn,
    text,
)
from hv.lab.formats.registry import FORMATS

__all__ = ["FORMATS"]
