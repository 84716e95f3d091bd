"""Explain what a processor makes of something, and which rule of the manual says so.

Each subject has arguments of its own: `hv explain vmentry --help`.
"""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to explain: its name, the module that does it, and what that does."""

    name: str
    module: str
    does: str


SUBJECTS = (
    Subject("vmentry", "hv.commands.explain_vmentry", "why VM entry fails: every rule that a VMCS breaks"),
    Subject("hypercall", "hv.commands.explain_hypercall", "what a hypercall takes and gives, by code or input value"),
    Subject("msr", "hv.commands.explain_msr", "what an MSR is, who may use it, and what its bits mean"),
    Subject("status", "hv.commands.explain_status", "what a hypercall's status means, and what to do about it"),
    Subject("acpi", "hv.commands.explain_acpi", "the ACPI tables of a PC, or of a file, field by field"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each subject."""
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for subject in SUBJECTS:
        module = importlib.import_module(subject.module)
        one = subjects.add_parser(subject.name, help=subject.does, description=module.__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(one)


def main(args: argparse.Namespace) -> int:
    """Explain the subject."""
    subject = next(subject for subject in SUBJECTS if subject.name == args.subject)
    code: int = importlib.import_module(subject.module).main(args)
    return code
