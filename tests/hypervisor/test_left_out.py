"""Every call, intercept type and message type of the manual is built, or left out for a reason; never both."""

import ast
from pathlib import Path

import pytest

import hv.hypervisor
from hv.hypervisor.hypercalls.intercepts import INTERCEPT_RULES
from hv.hypervisor.hypercalls.left_out import LEFT_OUT
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.intercepts import left_out
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.intercepts import HvInterceptType
from hv.spec.synic import HvMessageType

_ROOM = Path(hv.hypervisor.__file__).parent
REASON = 12         # characters: a word is none


def sent():
    """The message types that the hypervisor's own code names, where it does not say why they are missing."""
    for path in sorted(_ROOM.rglob("*.py")):
        if path == Path(left_out.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(value=ast.Name(id="HvMessageType"), attr=name):
                    yield HvMessageType[name]


@pytest.mark.parametrize("code", list(HypercallCode), ids=lambda code: code.name)
def test_a_call_is_built_or_left_out(code):
    assert (code in HYPERCALLS) is not (code in LEFT_OUT)
    assert len(LEFT_OUT.get(code, "x" * REASON)) >= REASON


@pytest.mark.parametrize("kind", list(HvInterceptType), ids=lambda kind: kind.name)
def test_a_type_of_intercept_can_be_installed_or_is_left_out(kind):
    assert (kind in INTERCEPT_RULES) is not (kind in left_out.INTERCEPT_TYPES)
    assert len(left_out.INTERCEPT_TYPES.get(kind, "x" * REASON)) >= REASON


@pytest.mark.parametrize("kind", list(HvMessageType), ids=lambda kind: kind.name)
def test_a_message_type_is_sent_or_left_out(kind):
    assert (kind in set(sent())) is not (kind in left_out.MESSAGE_TYPES)
    assert len(left_out.MESSAGE_TYPES.get(kind, "x" * REASON)) >= REASON
