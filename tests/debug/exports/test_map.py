"""The map of a machine: who is there and who reaches whom, as a chart that Mermaid reads."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hv.commands import building
from hv.commands.description import read
from hv.debug.exports.machine_map import markdown, mermaid
from hv.image.library import guests_folder
from tests.debug.exports.mermaid_rules import broken_rules
from tests.debug.sessions import session_over

PARSER = os.environ.get("HV_MERMAID", "")       # a folder in which `npm install mermaid jsdom` was done
READ = """
import fs from 'node:fs';
import { JSDOM } from 'jsdom';
globalThis.window = new JSDOM('').window; globalThis.document = globalThis.window.document;
const mermaid = (await import('mermaid')).default;
await mermaid.parse(fs.readFileSync(0, 'utf8'));
"""


@pytest.fixture(scope="module")
def synic():
    """Two VMs with ports and connections of each kind, some way into their run."""
    machine, vms = building.build_any(read(guests_folder() / "synic.toml"))
    machine.run(machine.clock.tsc + 600_000)
    yield machine, {1: "root", **{vm.partition_id: vm.name for vm in vms}}
    machine.close()


def test_the_map_is_a_chart_of_which_nothing_dangles(synic):
    assert broken_rules(mermaid(*synic)) == []


@pytest.mark.parametrize("line", [
    'subgraph P2["synic: partition 2, active"]',
    'P2M0["gpa 0x0..0x3fffff rwx"]',
    'P2O0["hypercall page over gpa 0x61000"]',
    'P2S3(["port 0x3: MESSAGE"])',
    'P3 ==>|"connection 0x2"| P2S3',
    'P2S3 -->|"SINT 2"| P2V0',
    'D16{{"device 00:02.0, nobody has it"}}',
])
def test_the_map_shows_partitions_memory_and_connections(synic, line):
    assert line in [each.strip() for each in mermaid(*synic).splitlines()]


def test_an_assigned_device_leads_through_its_domain_and_its_routes():
    session = session_over(("dma", "dma", 1), device=True)
    chart = mermaid(session.machine, {1: "root", 2: "dma"})
    session.machine.close()
    assert broken_rules(chart) == []
    for line in ('D16 -->|"DMA"| IOMMU1 --> P2', 'D16 -.->|"vector 0x30 is 0x50"| P2V0',
                 'P2M1 -->|"spa 0xf0000000"| D16'):
        assert f"  {line}\n" in chart


def test_a_name_of_a_vm_cannot_break_out_of_its_label(synic):
    machine, names = synic
    chart = mermaid(machine, {**names, 2: 'a"] --> B\x1b\n%%{init'})
    assert broken_rules(chart) == []
    assert "a#34;#93; --#62; B" in chart


def test_the_same_machine_has_the_same_map(synic):
    assert mermaid(*synic) == mermaid(*synic)


def test_a_page_of_markdown_has_the_chart_in_it(synic):
    page = markdown(*synic, "hv `x`")
    assert page.startswith("# hv \\`x\\`\n\n```mermaid\nflowchart LR\n")
    assert page.endswith("\n```\n")


@pytest.mark.parametrize(("chart", "part"), [
    ("graph\n", "it does not begin"), ('flowchart LR\n  A["x]\n', "this is nothing"),
    ("flowchart LR\n  A --> B\n", "nobody is called A"), ('flowchart LR\n  subgraph A["x"]\n', "do not match"),
    ('flowchart LR\n  A["x"]\n  A["x"]\n', "A is there twice"),
])
def test_the_rules_catch_what_is_no_chart(chart, part):
    assert any(part in rule for rule in broken_rules(chart))


@pytest.mark.skipif(not PARSER or not shutil.which("node"),
                    reason="HV_MERMAID names no folder with npm's mermaid and jsdom")
def test_the_real_parser_reads_it(synic):
    script = Path(PARSER) / "read.mjs"
    script.write_text(READ, encoding="utf-8")
    done = subprocess.run(["node", str(script)], input=mermaid(*synic).encode(), cwd=PARSER, capture_output=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr.decode()
