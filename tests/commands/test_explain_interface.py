"""hv explain hypercall, status: the tables answer, by number, by name, and by whole value."""

import json

import pytest

from hv import cli
from hv.debug.declared import bits_of, comments, fields_of
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.spec.hv_status import HvStatus, meaning
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.messages import PostMessageInput
from hv.spec.hypercalls.ports import CreatePortInput
from hv.spec.msrs import HvSimp, HvSynicSint
from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE


@pytest.fixture
def explain(capsys):
    """`explain("status", "0x5")`: exit code, lines of stdout, stderr."""
    def run(*arguments):
        code = cli.main(["explain", *arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err
    return run


def test_a_call_is_explained_by_its_code(explain):
    code, lines, err = explain("hypercall", "0x5c")
    assert (code, err) == (0, "")
    assert lines[0] == "HvCallPostMessage   0x005c   simple"
    assert "needs        PostMessages (CPUID 0x40000003 EBX bit 4)" in lines
    assert "input        PostMessageInput, 256 bytes" in lines
    assert "   12  payload_size   u32        bytes, 0..240" in lines


@pytest.mark.parametrize("name", ["PostMessage", "HvCallPostMessage", "POST_MESSAGE", "post message", "92"])
def test_a_call_has_many_names(explain, name):
    assert explain("hypercall", name)[1][0].startswith("HvCallPostMessage")


@pytest.mark.parametrize(("value", "complaint"), [
    ("0x000100000001005c", "a simple call has neither rep count nor rep start"),
    ("0x10050", "a rep call needs a rep count"), ("0x0002000200010050", "rep start 2 is not below rep count 2"),
    ("0x8000005c", "the hypervisor is not nested"), ("0x0800005c", "reserved bits 0x8000000 are set"),
    ("0x0002005c", "the call has no variable header")])
def test_an_input_value_is_decoded_with_what_the_door_refuses(explain, value, complaint):
    code, lines, _ = explain("hypercall", value)
    assert code == 0
    assert f"   INVALID_HYPERCALL_INPUT: {complaint}" in lines


def test_a_good_input_value_has_no_complaint(explain):
    lines = explain("hypercall", "0x0000000300000050")[1]
    assert ["43:32", "rep_count", "0x3"] in [line.split()[:3] for line in lines]
    assert not [line for line in lines if "INVALID_HYPERCALL_INPUT" in line]


def test_a_call_that_is_not_built_says_why(explain):
    lines = explain("hypercall", "VtlCall")[1]
    assert lines[0] == "HvCallVtlCall   0x0011   not built"
    assert lines[2] == "virtual secure mode (VTLs) is not built; the answer is INVALID_HYPERCALL_CODE."


def test_without_a_call_all_are_listed(explain):
    lines = explain("hypercall")[1]
    assert len(lines) == len(HypercallCode)
    built = [line for line in lines if "not built" not in line]
    assert len(built) == len(HYPERCALLS)


def test_the_list_of_calls_is_plain_data_too(explain):
    told = json.loads("\n".join(explain("hypercall", "--json")[1]))
    post = next(call for call in told if call["code"] == HypercallCode.POST_MESSAGE)
    assert (post["built"], post["kind"], post["input"][0]["name"]) == (True, "simple", "connection_id")
    assert all("reason" in call for call in told if not call["built"])


@pytest.mark.parametrize(("asked", "found"), [
    ("postmesage", "`postmesage` is no call; did you mean POST_MESSAGE"),
    ("sparse", "did you mean MAP_SPARSE_GPA_PAGES or MODIFY_SPARSE_GPA_PAGES or "),
    ("", "`` is no call; give its number"),
    ("0x4321", "no hypercall has the code 0x4321"), ("-3", "`-3`"), ("\x1b[2J", "is no call"),
    ("0x10000000000000000", "is wider than 64 bits")])
def test_what_is_no_call_is_one_line(explain, asked, found):
    code, lines, err = explain("hypercall", *(["--", asked] if asked.startswith("-") else [asked]))
    assert (code, lines) == (2, [])
    assert found in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_a_status_is_explained(explain):
    lines = explain("status", "0x5")[1]
    assert lines[0] == "HV_STATUS_INVALID_PARAMETER   0x0005"
    assert lines[2].startswith("means        a value inside the parameters is refused")
    assert any(line.startswith("said of") and "HvCallGetVpRegisters" in line for line in lines)


def test_a_result_value_says_how_many_reps_were_done(explain):
    lines = explain("status", "0x0000000300000005")[1]
    assert "   43:32  reps_complete  0x3  absolute: rep_start + what this attempt did" in lines


@pytest.mark.parametrize("name", ["ACCESS_DENIED", "HV_STATUS_ACCESS_DENIED", "hv status access denied", "6"])
def test_a_status_has_many_names(explain, name):
    assert json.loads("\n".join(explain("status", name, "--json")[1]))["code"] == HvStatus.ACCESS_DENIED


def test_every_status_is_in_the_list_with_a_meaning(explain):
    lines = explain("status")[1]
    assert len(lines) == len(HvStatus)
    assert all(len(line.split(maxsplit=2)) == 3 for line in lines)


@pytest.mark.parametrize("asked", ["0x1", "0x10001", "denied", ""])
def test_what_is_no_status_is_one_line(explain, asked):
    code, lines, err = explain("status", asked)
    assert (code, lines, err.count("\n")) == (2, [], 1)


def test_no_meaning_is_empty():
    assert all(meaning(status)[0] for status in HvStatus)
    assert meaning(HvStatus.PROCESSOR_FEATURE_SMEP_NOT_SUPPORTED)[0] == \
        "the processor lacks SMEP, which the partition was made or saved with"


def test_fields_carry_the_words_of_their_declaration():
    assert fields_of(PostMessageInput)[3].words == "bytes, 0..240"
    assert [field.place for field in fields_of(CreatePortInput)][-2:] == ["44", "48"]
    assert comments(HvSimp)["gpfn"] == "GPA page number"
    assert [field.place for field in bits_of(HvSynicSint)][:3] == ["7:0", "15:8", "16"]


def test_an_msr_is_explained_by_its_index(explain):
    code, lines, err = explain("msr", "0x40000083")
    assert (code, err) == (0, "")
    assert lines[0] == "HV_X64_MSR_SIMP   0x40000083"
    assert "needs        AccessSynicRegs (CPUID 0x40000003 EAX bit 2)" in lines
    assert ["63:12", "gpfn", "GPA", "page", "number"] in [line.split() for line in lines]


@pytest.mark.parametrize("name", ["SIMP", "HV_SIMP", "HV_X64_MSR_SIMP", "hv x64 msr simp", "1073741955"])
def test_an_msr_has_many_names(explain, name):
    assert explain("msr", name)[1][0].startswith("HV_X64_MSR_SIMP")


def test_a_value_is_decoded_with_what_wrmsr_refuses(explain):
    lines = explain("msr", "STIMER0_CONFIG", "0xf2001")[1]
    assert ["19:16", "sintx", "0xf"] in [line.split()[:3] for line in lines]
    assert "   #GP(0): bits 0x2000 must be zero" in lines
    assert not [line for line in explain("msr", "STIMER0_CONFIG", "0xf0001")[1] if "#GP(0): bits" in line]


def test_a_processors_own_msr_is_named(explain):
    assert explain("msr", "efer")[1][0] == "IA32_EFER   0xc0000080"
    assert explain("msr", "0x480")[1][2].startswith("not here: an access is #GP(0)")


def test_without_an_msr_the_synthetic_ones_are_listed(explain):
    lines = explain("msr")[1]
    assert len(lines) == len(SYNTHETIC_MSR_TABLE)
    told = json.loads("\n".join(explain("msr", "--json")[1]))
    assert [msr["index"] for msr in told] == sorted(SYNTHETIC_MSR_TABLE)


@pytest.mark.parametrize(("asked", "found"), [
    (("0x99",), "no MSR 0x99 is known here"), (("SYMP",), "did you mean"), (("SIMP", "x"), "VALUE is `x`"),
    (("SIMP", "0x1" + "0" * 16), "expected a number of 64 bits")])
def test_what_is_no_msr_is_one_line(explain, asked, found):
    code, lines, err = explain("msr", *asked)
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert found in err
