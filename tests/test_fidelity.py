"""`docs/fidelity.md` says what the code offers and which test shows it, and nothing else."""

from __future__ import annotations

import subprocess
import sys

from hv.spec.exits import EntryFailure, ExitReason
from hv.spec.vmcs import PinControls, SecondaryControls
from tests import fidelity


def row(name: str) -> fidelity.Row:
    return next(row for _, rows in fidelity.sections() for row in rows if row.name == name)


def test_the_document_is_up_to_date_and_every_row_has_a_test_or_a_reason():
    """In a process of its own: the tests that stand behind a row are known when all are collected."""
    checked = subprocess.run([sys.executable, "-m", "tests.fidelity", "--check"], capture_output=True, text=True)
    assert (checked.stderr, checked.returncode) == ("", 0)


def test_every_row_has_a_name_of_its_own():
    names = [row.name for _, rows in fidelity.sections() for row in rows]
    assert len(names) == len(set(names))


def test_every_control_and_every_exit_reason_has_a_row():
    names = {row.name for _, rows in fidelity.sections() for row in rows}
    assert {f"control/PinControls.{bit.name}" for bit in PinControls} <= names
    assert {f"exit/{reason.name}" for reason in ExitReason} <= names


def test_a_row_that_is_left_out_says_why():
    assert row(f"control/SecondaryControls.{SecondaryControls.ENCLS_EXITING.name}").left_out == "there are no enclaves"
    assert row("exit/SEAMCALL").left_out == row("instruction/SEAMCALL").left_out == "there are no trust domains"
    assert "STI" in row(f"event/{EntryFailure.NMI_INJECTION.name}").left_out


def test_members_of_different_kinds_do_not_share_a_reason():
    """They are equal numbers: bit 11 is RDRAND exiting in one word, and the dual-monitor treatment in another."""
    assert row("control/PrimaryControls.RDPMC_EXITING").left_out == ""
    assert row("control/SecondaryControls.RDRAND_EXITING").left_out == "there is no random-number generator"


def test_a_row_without_a_test_and_a_test_without_a_row_are_told():
    proofs = {row.name: ["tests/x.py::test"] for _, rows in fidelity.sections() for row in rows}
    assert fidelity.complaints(proofs) == []
    del proofs["exit/CPUID"]
    proofs["exit/NOTHING"] = ["tests/x.py::test_it"]
    assert fidelity.complaints(proofs) == [
        "exit/CPUID: no test proves it, and no reason says why it is left out",
        "exit/NOTHING: tests/x.py::test_it proves what is no row",
    ]


def test_a_row_names_three_tests_with_their_cases_and_counts_the_others():
    tests = ["tests/a.py::t[1]", "tests/a.py::t[2]", "tests/b.py::t", "tests/c.py::t", "tests/d.py::t"]
    text = fidelity.document({"exit/CPUID": tests, "instruction/RSM": tests[:1]})
    assert "| CPUID (10) | `a.py::t` (2 cases), `b.py::t`, `c.py::t` and 1 more |" in text
    assert "| HLT (12) | **nothing** |" in text
    assert "| RSM (17) | *left out*: there is no system-management mode: RSM is #UD |" in text
    assert "| RSM | *left out*: there is no system-management mode: RSM is #UD (`a.py::t`) |" in text
