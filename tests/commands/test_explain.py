"""hv explain vmentry: what fails, why, and what to change; and every kind of input that is none."""

import difflib
import io
import json
from types import SimpleNamespace

import pytest

from hv import cli
from hv.spec.vmcs import VmcsField
from hv.vmx.checks import RULES
from hv.vmx.checks.explain import explain
from hv.vmx.checks.reading import _ELSEWHERE, LARGEST_BYTES, BadVmcs, explain_values, read
from tests.lab.exercises import LABS
from tests.vmx.checks.guest_rows import ROWS
from tests.vmx.checks.rows import memory

BOTH = {"GUEST_CR0": "0x80000030", "GUEST_CS_ACCESS_RIGHTS": "0x93"}


@pytest.fixture
def ask(capsys, tmp_path):
    """`ask({...} or bytes, "--json", ...)`: exit code, stdout, stderr."""
    def run(given, *arguments):
        place = tmp_path / "vmcs.json"
        place.write_bytes(given if isinstance(given, bytes) else json.dumps(given).encode())
        code = cli.main(["explain", "vmentry", str(place), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err
    return run


def test_the_small_valid_guest_is_entered(ask):
    code, out, err = ask({})
    assert (code, err) == (0, "")
    assert out.startswith(f"VM entry succeeds: all {len(RULES)} rules hold\n")


def test_every_failing_rule_is_told_with_the_bits_by_name(ask):
    code, out, _ = ask(BOTH)
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "VM entry fails: VM exit 33, qualification 0 (exit reason 0x80000021)"
    assert lines[1] == f"VM-entry failure due to invalid guest state; 4 of {len(RULES)} rules do not hold"
    assert [line.split()[1] for line in lines if line[:1].isdigit()] == [
        "guest-cr0-fixed-bits", "guest-cr0-pg-needs-pe", "guest-cs-type", "guest-cs-granularity"]
    assert "   GUEST_CR0 = 0x80000030   ET NE PG" in lines
    assert "   found     bit 0 (PE) is 0" in lines
    assert "   required  it is 1, as CR0.PG is 1" in lines
    assert "   change    GUEST_CR0 = 0x80000031   set bit 0 (PE)" in lines
    assert '   manual    SDM "Checks on Guest Segment Registers" (guest state)' in lines
    assert "   GUEST_CS_LIMIT = 0xffffffff   (assumed)" in lines


def test_the_changes_together_let_the_guest_enter(ask):
    _, out, _ = ask(BOTH)
    block = out.split("With these changes the guest is entered:\n")[1].split("\n\n")[0]
    changes = dict(line.strip().partition("   ")[0].split(" = ") for line in block.splitlines())
    assert ask(BOTH | changes)[0] == 0
    assert "   GUEST_CR0 = 0x80000031   set bit 0 (PE)\n" in f"{block}\n"


@pytest.mark.parametrize(("given", "changes"), [
    ({"GUEST_RFLAGS": "0x20002"}, {"GUEST_RFLAGS": "0x2"}),             # not the bases and limits of virtual-8086 mode
    ({"GUEST_SS_SELECTOR": "0x2b", "GUEST_CS_SELECTOR": "0x33", "GUEST_CS_ACCESS_RIGHTS": "0xa0fb"},
     {"GUEST_SS_ACCESS_RIGHTS": "0xc0f3"}),                             # not CS there and back
    ({"GUEST_LDTR_ACCESS_RIGHTS": 0}, {"GUEST_LDTR_ACCESS_RIGHTS": "0x10000"}),
    ({"GUEST_GS_ACCESS_RIGHTS": 0}, {"GUEST_GS_ACCESS_RIGHTS": "0x10000"}),
])
def test_the_changes_are_those_that_are_needed(ask, given, changes):
    assert json.loads(ask(given, "--json", "--verbose")[1])["mended"] == changes


def test_what_was_assumed_is_said(ask):
    _, out, _ = ask(BOTH)
    assert ("assumed: all fields but GUEST_CS_ACCESS_RIGHTS, GUEST_CR0, as in a small valid 64-bit guest "
            in " ".join(out.split()))
    _, out, _ = ask(BOTH, "--verbose")
    assert "   HOST_CR0                  0x80010033   PE MP ET NE WP PG\n" in out
    assert "   0: VPID, POSTED_INTR_NOTIFICATION_VECTOR, " in out
    assert "   because   PRIMARY_PROC_CONTROLS = " in out


def test_an_assumed_field_that_decides_is_named_beside_the_rule(ask):
    """A guest in real mode whose controls were not written down: whoever reads sees which ones were supposed."""
    _, out, _ = ask({"GUEST_CR0": "0x30"})
    assert '   required  1 by IA32_VMX_CR0_FIXED0 = 0x80000021 and "unrestricted guest" = 0\n' in out
    assert "   assumed   PRIMARY_PROC_CONTROLS = 0x850061f2, SECONDARY_PROC_CONTROLS = 0x2\n" in out
    assert "   assumed   VM_ENTRY_CONTROLS = 0x93ff\n" in out
    _, out, _ = ask({"GUEST_CR0": "0x30", "VM_ENTRY_CONTROLS": "0x93ff"})
    assert "   assumed   VM_ENTRY_CONTROLS" not in out


def test_a_change_of_an_assumed_field_is_marked(ask):
    _, out, _ = ask({"VM_ENTRY_INTERRUPTION_INFO": "0x80000020"})
    assert "With these changes the guest is entered:\n   GUEST_RFLAGS = 0x202   set bit 9 (IF)   (assumed)\n" in out


def test_a_failure_of_another_kind_than_the_first_says_its_own(ask):
    _, out, _ = ask({"EPT_POINTER": "0x100006", "HOST_CS_SELECTOR": "0x13"})
    assert out.startswith("VM entry fails: VMfail 7 (VM-instruction error 7)\n"
                          "VM entry with invalid control field(s); 2 of ")
    assert "(VM-execution controls)\n" in out
    assert "(host state: VMfail 8)" in " ".join(out.split())
    assert "   found     bits 5:3 are 0: 1 level\n" in out
    assert "   change    EPT_POINTER = 0x10001e   set bits 4:3 (WALK_LENGTH)\n" in out
    assert "   found     bits 1:0 (RPL) are 1\n" in out


def test_json_is_a_list_of_what_fails(ask):
    code, out, err = ask(BOTH, "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert [item["rule"] for item in found] == ["guest-cr0-fixed-bits", "guest-cr0-pg-needs-pe", "guest-cs-type",
                                                "guest-cs-granularity"]
    assert found[1] == {
        "rule": "guest-cr0-pg-needs-pe", "outcome": "VM exit 33, qualification 0", "group": "guest state",
        "fields": ["GUEST_CR0"], "values": {"GUEST_CR0": "0x80000030"}, "decoded": {"GUEST_CR0": "ET NE PG"},
        "found": "bit 0 (PE) is 0", "required": "it is 1, as CR0.PG is 1", "text": "If CR0.PG is 1, CR0.PE is 1.",
        "heading": "Checks on Guest Control Registers, Debug Registers, and MSRs",
        "fix": {"GUEST_CR0": "0x80000031"}, "assumed": []}
    assert ask({}, "--json")[:2] == (0, "[]\n")


def test_json_and_verbose_is_one_object_with_everything(ask):
    code, out, _ = ask({"PIN_BASED_CONTROLS": 0}, "--json", "--verbose")
    whole = json.loads(out)
    assert (code, whole["outcome"]) == (1, "VMfail 7")
    assert whole["mended"] == {"PIN_BASED_CONTROLS": "0x16"}
    assert "PIN_BASED_CONTROLS" not in whole["assumed"]
    assert whole["assumed"]["HOST_CR0"] == "0x80010033"
    assert len(whole["assumed"]) == sum(not field.read_only for field in VmcsField) - 1


def test_a_rule_that_needs_memory_is_said_to_be_unchecked(ask):
    link = {"VMCS_LINK_POINTER": "0x5000"}
    code, out, _ = ask(link)
    assert code == 0
    assert out.startswith(f"VM entry succeeds, as far as this can tell: {len(RULES) - 2} rules hold, "
                          "2 were not checked\n")
    assert "not checked: vmcs-link-pointer-revision: " in out
    code, out, err = ask(link, "--json")
    assert (code, out) == (0, "[]\n")
    assert err.startswith("not checked: vmcs-link-pointer-revision: there is no memory to read\n")


def test_the_processor_is_named_and_can_be_another(ask):
    cet = {"VM_ENTRY_CONTROLS": hex(0x93FF | 1 << 20), "GUEST_SSP": 1}
    assert "processor: the one modelled here, 46 bits of physical address, in IA-32e mode\n" in ask(cet)[1]
    _, out, _ = ask(cet, "--json")
    assert [item["rule"] for item in json.loads(out)] == ["vm-entry-controls", "guest-ssp-alignment"]
    _, out, _ = ask(cet, "--json", "--processor", "complete")
    assert [item["rule"] for item in json.loads(out)] == ["guest-ssp-alignment"]
    assert "one with every feature of the manual" in ask(cet, "--processor", "complete")[1]


def test_capability_msrs_and_the_physical_width_may_be_given(ask):
    given = {"IA32_VMX_CR4_FIXED0": "0x2020", "MAXPHYADDR": 39, "GUEST_CR3": 1 << 40}
    _, out, _ = ask(given, "--json")
    assert [item["rule"] for item in json.loads(out)] == ["guest-cr3-width"]
    assert "one with the capability MSRs that were given, 39 bits" in ask(given)[1]
    must = {"IA32_VMX_TRUE_PINBASED_CTLS": hex(0xFF << 32 | 0x56), "PIN_BASED_CONTROLS": 0x16}
    _, out, _ = ask(must, "--json")
    assert json.loads(out)[0]["found"] == "bit 6 (ACTIVATE_PREEMPTION_TIMER) is 0"


def test_a_capability_msr_that_nobody_gave_is_assumed_too(ask):
    """A control of the user's machine may fail just because the modelled processor does not have it."""
    given = {"PIN_BASED_CONTROLS": 0x16 | 1 << 8}
    code, out, _ = ask(given)
    assert code == 1
    assert ("of the processor below, not of yours: IA32_VMX_TRUE_PINBASED_CTLS (MSR 0x48d). Add your machine's to the "
            "JSON." in " ".join(out.split()))
    assert json.loads(ask(given, "--json")[1])[0]["assumed"] == ["IA32_VMX_TRUE_PINBASED_CTLS"]
    given["IA32_VMX_TRUE_PINBASED_CTLS"] = hex(0xFF << 32 | 0x16)
    code, out, _ = ask(given)
    assert code == 1
    assert "not of yours" not in out
    assert json.loads(ask(given, "--json")[1])[0]["assumed"] == []


def test_without_true_msrs_the_others_are_not_assumed(ask):
    old = {"IA32_VMX_BASIC": "0x18100000000001", "IA32_VMX_PINBASED_CTLS": hex(0xFF << 32 | 0x16),
           "PIN_BASED_CONTROLS": 0}
    assert json.loads(ask(old, "--json")[1])[0]["assumed"] == []


@pytest.mark.parametrize(("given", "words"), [
    ({"VM_INSTRUCTION_ERROR": 7}, "VMfail 7: what is given does not explain it; look among what is assumed"),
    ({"VM_INSTRUCTION_ERROR": 7, "HOST_CR0": 0}, "VMfail 7: what is given does not explain it;"),
    ({"EXIT_REASON": "0x80000021", "PIN_BASED_CONTROLS": 0, "GUEST_RFLAGS": 0},
     "VM exit 33: your processor got as far as rule 2 below"),
    ({"EXIT_REASON": "0x80000022", "EXIT_QUALIFICATION": 3},
     "VM exit 34: the rules held, and entry 3 of the VM-entry MSR-load area was refused"),
    ({"EXIT_REASON": "0x80000029"}, "VM exit 41: a machine check came during VM entry"),
])
def test_what_the_vmcs_reports_of_its_last_entry_is_compared(ask, given, words):
    out = " ".join(ask(given)[1].split())
    assert f"But the VMCS reports {words}" in out
    assert json.loads(ask(given, "--json", "--verbose")[1])["contradicts"] == words.split(":")[0]


@pytest.mark.parametrize("given", [
    {"VM_INSTRUCTION_ERROR": 7, "PIN_BASED_CONTROLS": 0}, {"EXIT_REASON": "0x80000021", "GUEST_RFLAGS": 0},
    {"EXIT_REASON": "0x80000021", "VM_INSTRUCTION_ERROR": 8, "HOST_CR0": 0},        # one of them is of an earlier entry
    {"EXIT_REASON": 10}, {"VM_INSTRUCTION_ERROR": 5}])
def test_what_the_vmcs_reports_is_not_told_when_it_fits(ask, given):
    assert "But the VMCS reports" not in ask(given)[1]


def test_without_true_msrs_the_others_count(ask):
    """IA32_VMX_BASIC bit 55."""
    old = {"IA32_VMX_BASIC": "0x18100000000001", "IA32_VMX_PROCBASED_CTLS": hex(0xFFF9FFFE << 32 | 0x0401E172),
           "PRIMARY_PROC_CONTROLS": "0x84006172"}
    _, out, _ = ask(old, "--json")
    assert json.loads(out)[0]["found"] == "bit 15 (CR3_LOAD_EXITING) and bit 16 (CR3_STORE_EXITING) are 0"


def test_a_host_outside_ia32e_mode(ask):
    assert ask({}, "--legacy-host")[0] == 1
    assert "host-address-space-size-is-the-current-mode" in ask({}, "--legacy-host")[1]


def test_what_if_a_field_had_another_value(ask):
    assert ask({}, "--set", "GUEST_RFLAGS=0")[0] == 1
    assert ask({}, "--set", "GUEST_RFLAGS=0x202")[0] == 0
    code, _, err = ask({}, "--set", "GUEST_RFLAGS")
    assert (code, err) == (2, "hv: --set is `GUEST_RFLAGS`; expected a field and a value; "
                              "such as --set GUEST_CR0=0x31\n")


BAD = [
    (b'{"GUEST_CR9": 1}', "GUEST_CR9", "it is no VMCS field; did you mean GUEST_CR"),
    (b'{"BANANA": 1}', "BANANA", "it is no VMCS field"),
    (b'{"GUEST_ES_SELECTOR": 65536}', "GUEST_ES_SELECTOR", "0x10000 does not fit its 16 bits"),
    (b'{"GUEST_CS_LIMIT": "0x100000000"}', "GUEST_CS_LIMIT", "0x100000000 does not fit its 32 bits"),
    (b'{"GUEST_CR0": "0x10000000000000000"}', "GUEST_CR0", "0x10000000000000000 does not fit its 64 bits"),
    (b'{"GUEST_CR0": -1}', "GUEST_CR0", "-1 is negative; expected 0..0xffffffffffffffff"),
    (b'{"GUEST_CR0": "80000031"}', "GUEST_CR0", '`80000031` is no hexadecimal number such as "0x10"'),
    (b'{"GUEST_CR0": "80000031"}', "GUEST_CR0", 'write "0x80000031", or 80000031 without quotes'),
    (b'{"GUEST_CR0": "ffe0"}', "GUEST_CR0", 'is no hexadecimal number such as "0x10"; write "0xffe0"'),
    (b'{"GUEST_CR0": "80000031h"}', "GUEST_CR0", 'write "0x80000031"'),
    (b'{"GUEST_CR0": 0x31}', None, 'line 1, column 16: no JSON: a hexadecimal number stands in quotes, such as "0x10"'),
    (b'{"guest_cr0": 1}', "guest_cr0", "did you mean GUEST_CR0?"),
    (b'{"0x6800": 1}', "0x6800", "it is an encoding; the field is called GUEST_CR0"),
    (b'{"GUEST_CS_AR_BYTES": 1}', "GUEST_CS_AR_BYTES", "did you mean GUEST_CS_ACCESS_RIGHTS?"),
    (b'{"GUEST_TR_AR": 1}', "GUEST_TR_AR", "did you mean GUEST_TR_ACCESS_RIGHTS?"),
    (b'{"CPU_BASED_VM_EXEC_CONTROL": 1}', "CPU_BASED_VM_EXEC_CONTROL", "did you mean PRIMARY_PROC_CONTROLS?"),
    (b'{"GUEST_CR0": "0x"}', "GUEST_CR0", '`0x` is no hexadecimal number such as "0x10"'),
    (b'{"GUEST_CR0": "zero"}', "GUEST_CR0", '`zero` is no hexadecimal number such as "0x10"'),
    (b'{"GUEST_CR0": 1.5}', "GUEST_CR0", "1.5 is no whole number of at most 64 bits"),
    (b'{"GUEST_CR0": 1e3}', "GUEST_CR0", "1e3 is no whole number of at most 64 bits"),
    (b'{"GUEST_CR0": NaN}', "GUEST_CR0", "NaN is no whole number of at most 64 bits"),
    (b'{"GUEST_CR0": ' + b"9" * 5000 + b"}", "GUEST_CR0", "is no whole number of at most 64 bits"),
    (b'{"GUEST_CR0": true}', "GUEST_CR0", 'it is true or false; expected a number, or a string such as "0x10"'),
    (b'{"GUEST_CR0": null}', "GUEST_CR0", "it is null; expected a number"),
    (b'{"GUEST_CR0": {"a": 1}}', "GUEST_CR0", "it is an object; expected a number"),
    (b'{"GUEST_CR0": [1]}', "GUEST_CR0", "it is a list; expected a number"),
    (b'{"GUEST_CR0": 1, "GUEST_CR0": 1}', "GUEST_CR0", "it is given twice"),
    (b'{"TERTIARY_EXEC_CONTROLS": 1, "TERTIARY_PROC_CONTROLS": 1}', "TERTIARY_PROC_CONTROLS", "it is given twice"),
    (b'{"MAXPHYADDR": 8}', "MAXPHYADDR", "8 bits; expected 36..52"),
    (b'{"IA32_VMX_PINBASED_CTLS": 0}', "IA32_VMX_PINBASED_CTLS", "VM entry does not read it while bit 55 of"),
    (b'{"IA32_VMX_TRUE_ENTRY_CTLS": 1}', "IA32_VMX_TRUE_ENTRY_CTLS", "bits 0x1 must be 1 (bits 31:0) and may not"),
    (b"[1, 2]", None, "it is a list; expected an object of field names and values"),
    (b'"GUEST_CR0"', None, "it is a string; expected an object of field names and values"),
    (b"7", None, "it is a number; expected an object of field names and values"),
    (b"", None, "line 1, column 1: no JSON: Expecting value"),
    (b'{"GUEST_CR0": 1,}', None, "line 1, column 17: no JSON: "),
    (b'{"GUEST_CR0": "\xff"}', None, "byte 15 is no UTF-8; expected JSON in UTF-8"),
    (b"[" * 200_000, None, "it is nested too deeply; expected an object of field names and values"),
    (b'{"a":' * 100_000, None, "it is nested too deeply; expected an object of field names and values"),
    (b" " * (LARGEST_BYTES + 1), None, f"it has more than {LARGEST_BYTES} bytes; a VMCS written down never does"),
]


@pytest.mark.parametrize(("data", "field", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_a_line_that_names_the_field(ask, data, field, message):
    code, out, err = ask(data)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("hv: ")
    assert message in err
    assert (f": {field}: " in err) is (field is not None)


@pytest.mark.parametrize(("data", "field", "message"), BAD, ids=range(len(BAD)))
def test_with_json_bad_input_is_a_list(ask, data, field, message):
    code, out, err = ask(data, "--json")
    assert (code, err) == (2, "")
    problems = json.loads(out)
    assert [problem["field"] for problem in problems] == [field]
    assert message in problems[0]["error"]


def test_names_of_other_headers_lead_to_fields_that_there_are():
    assert set(_ELSEWHERE.values()) <= {field.name for field in VmcsField}


def test_every_problem_is_told(ask):
    code, _, err = ask({"NOTHING_LIKE_IT": 1, "GUEST_CR0": "x", "GUEST_ES_SELECTOR": 1 << 20, "GUEST_RIP": 0})
    assert code == 2
    assert [line.split(": ")[2] for line in err.splitlines()] == ["NOTHING_LIKE_IT", "GUEST_CR0", "GUEST_ES_SELECTOR"]


def test_near_names_are_looked_for_as_long_as_somebody_reads_them(ask, monkeypatch):
    """A file of the largest size may have 100 000 unknown names, and each look takes about a millisecond."""
    looks = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda name, *_: looks.append(name) or [])
    code, _, err = ask({f"FIELD_{n}": 1 for n in range(5000)})
    assert (code, err.count("\n"), len(looks)) == (2, 5000, 50)


def test_a_long_or_ugly_name_does_not_reach_the_terminal(ask):
    code, _, err = ask({"\x1b[2J" + "A" * 5000: 1})
    assert code == 2
    assert "\x1b" not in err
    assert len(err) < 500


def test_it_reads_standard_input(capsys, monkeypatch):
    for arguments in (["-"], []):
        data = io.BytesIO(b'{"GUEST_RFLAGS": 0}')
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=data, isatty=lambda: False))
        assert cli.main(["explain", "vmentry", *arguments, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)[0]["rule"] == "guest-rflags-bit-1"


def test_at_a_terminal_it_says_what_it_wants(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert cli.main(["explain", "vmentry"]) == 2
    assert "FILE is missing; a VMCS as JSON, a guest, or `-`" in capsys.readouterr().err


def test_in_colours_it_says_the_same(ask, monkeypatch):
    plain = ask(BOTH)[1]
    monkeypatch.setattr("hv.commands.subjects.is_plain", lambda asked: False)
    assert [line.rstrip() for line in ask(BOTH)[1].splitlines()] == plain.splitlines()


def test_a_file_that_is_not_there(capsys, tmp_path):
    assert cli.main(["explain", "vmentry", str(tmp_path / "no.json")]) == 2
    assert "no.json cannot be read: No such file or directory" in capsys.readouterr().err
    assert cli.main(["explain", "vmentry", str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)[0]["field"] is None


def test_without_a_subject_the_usage_is_said(capsys):
    assert cli.main(["explain"]) == 2
    assert "SUBJECT is missing" in capsys.readouterr().err


def test_a_guest_is_run_and_its_vmcs_explained(capsys):
    assert cli.main(["explain", "vmentry", "hello"]) == 0
    assert capsys.readouterr().out.startswith("VM entry succeeds")
    assert cli.main(["explain", "vmentry", "guests/timer.asm", "--set", "GUEST_CR4=0", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [item["rule"] for item in found] == ["guest-cr4-fixed-bits", "guest-ia32e-mode-needs-pae"]
    assert all(not item["assumed"] for item in found)


def test_a_guest_has_the_processor_that_is_modelled(capsys):
    assert cli.main(["explain", "vmentry", "hello", "--processor", "complete"]) == 2
    assert "--processor and --legacy-host are for a VMCS in a file" in capsys.readouterr().err


def test_the_rules_can_be_listed(capsys):
    assert cli.main(["explain", "vmentry", "--rules"]) == 0
    out = capsys.readouterr().out
    assert all(f"   {rule.id}\n      {rule.text}\n" in out for rule in RULES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_rule_can_be_told(row):
    """As a library call; the changes it names lead to an entry that succeeds, or it says that none do."""
    from hv.debug.entry_text import plain, told

    explanation = explain(row.entry(memory()))
    assert row.id in [failure.rule.id for failure in explanation.failures]
    text = plain(told(explanation, verbose=True))
    assert f". {row.id}" in text
    assert max(map(len, text.splitlines())) <= 80
    assert plain(told(explanation, True, 100)).split() == text.split()
    json.dumps(explanation.inspect())
    assert explanation.mended is not None
    assert explain(explanation.entry.with_values(explanation.mended)).entered


def test_the_library_call():
    explanation = explain_values({"GUEST_RFLAGS": 0})
    assert [failure.rule.id for failure in explanation.failures] == ["guest-rflags-bit-1"]
    assert explanation.outcome == "VM exit 33, qualification 0"
    with pytest.raises(BadVmcs) as caught:
        read([("GUEST_CR0", "7")])
    assert [problem.field for problem in caught.value.problems] == ["GUEST_CR0"]


def test_an_entry_that_could_not_be_checked_whole_does_not_read_as_good(ask):
    """A VMCS link pointer of 0, which nobody wrote, points to a VMCS at 0."""
    _, out, _ = ask({"VMCS_LINK_POINTER": 0})
    assert out.startswith(f"VM entry succeeds, as far as this can tell: {len(RULES) - 2} rules hold, "
                          "2 were not checked\n")
    assert "   VMCS_LINK_POINTER = 0x0   a VMCS at that address\n" in out


def test_what_only_this_processor_lacks_is_told_apart(ask):
    """The CR4 of a Linux host has features that are not modelled here."""
    linux = {"HOST_CR4": "0x3726e0", "GUEST_CR0": "0x80050013"}
    hint = "1 of these asks for what the processor modelled here lacks: for another machine give --processor complete"
    assert hint in " ".join(ask(linux)[1].split())
    assert "--processor complete" not in ask({"GUEST_CR0": "0x80050013"})[1]
    assert "--processor complete" not in ask(linux, "--processor", "complete")[1]
    assert "--processor complete" not in ask(linux | {"IA32_VMX_CR4_FIXED1": "0x3767ff"})[1]


def test_a_linear_address_in_the_place_of_a_physical_one_is_seen():
    """The usual mistake: a pointer of the hypervisor's own, not translated."""
    virtual, controls = "0xffff88810e000000", hex(0x8600_61F2 | 1 << 28)
    found = explain_values({"PRIMARY_PROC_CONTROLS": controls, "MSR_BITMAP": virtual, "VM_EXIT_MSR_LOAD_COUNT": 1,
                            "VM_EXIT_MSR_LOAD_ADDR": virtual}).failures
    assert [failure.rule.id for failure in found] == ["msr-bitmap-address", "exit-msr-load-area"]
    assert all("it looks like a linear address" in failure.broken.found for failure in found)
    physical = explain_values({"PRIMARY_PROC_CONTROLS": controls, "MSR_BITMAP": "0x10e000001"}).failures
    assert "linear" not in physical[0].broken.found


def test_a_control_whose_rules_are_not_here_does_not_pass_silently(ask):
    """Only a processor with every feature offers one; the modelled one refuses it."""
    trace = {"VM_ENTRY_CONTROLS": hex(0x93FF | 1 << 18)}
    code, out, _ = ask(trace, "--processor", "complete")
    assert code == 0
    assert out.startswith(f"VM entry succeeds, as far as this can tell: all {len(RULES)} rules hold\n")
    assert "not checked: what the manual says of LOAD_RTIT_CTL: these rules are not here.\n" in out
    _, out, err = ask(trace, "--processor", "complete", "--json")
    assert (out, err) == ("[]\n", "not checked: the rules of LOAD_RTIT_CTL are not here\n")
    whole = json.loads(ask(trace, "--processor", "complete", "--json", "--verbose")[1])
    assert whole["without_rules"] == ["LOAD_RTIT_CTL"]
    assert ask(trace)[0] == 1


# --- a program that is a hypervisor itself ----------------------------------------------------------------------

HYPERVISOR = LABS / "16_vm_entry"


def test_a_hypervisor_is_told_what_its_own_vmcs_lacks(capsys):
    """Not only the first rule, which is all that the processor says."""
    assert cli.main(["explain", "vmentry", "--bare", str(HYPERVISOR / "starter.asm")]) == 1
    out = capsys.readouterr().out
    assert out.startswith("VM entry fails: VMfail 7")
    assert [line.split()[1] for line in out.splitlines() if line[:1].isdigit()] == [
        "pin-based-controls", "host-cr4-fixed-bits", "host-tr-selector-not-null", "guest-tr-type",
        "guest-rflags-bit-1", "vmcs-link-pointer-revision"]


def test_a_hypervisor_that_enters_its_guest_is_told_so(capsys):
    assert cli.main(["explain", "vmentry", "--bare", str(HYPERVISOR / "solution/vm_entry.asm")]) == 0
    assert cli.main(["explain", "vmentry", "--bare", str(HYPERVISOR / "solution/vm_entry.asm"),
                     "--set", "GUEST_RFLAGS=0"]) == 1


def test_a_program_that_is_no_hypervisor_has_no_vmcs(capsys):
    assert cli.main(["explain", "vmentry", "--bare", "hello"]) == 2
    assert "no current VMCS" in capsys.readouterr().err
