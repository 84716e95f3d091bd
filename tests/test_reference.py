"""docs/hypercalls.md says what the code says."""

from tests.reference import DOCUMENT, page


def test_the_page_of_hypercalls_is_up_to_date():
    """`make reference` writes it."""
    assert DOCUMENT.read_text(encoding="utf-8") == page()
