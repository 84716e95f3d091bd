"""Who may import whom: the privilege boundary, kept by reading every import in the tree."""

import ast
import enum
import importlib
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hv.hypervisor

TREE = Path(hv.__file__).parent
EVERYTHING = None
MAY_IMPORT = {
    "spec": set(),
    "printable": set(), "whole_file": set(),
    "trace": {"spec"},
    "instructions": {"spec"},
    "pci": {"spec"},
    "machine": {"instructions", "pci", "spec", "trace"},
    "vmx": {"machine", "instructions", "spec", "trace"},
    "iommu": {"machine", "spec", "trace"},
    "hypervisor": {"vmx", "iommu", "machine", "instructions", "spec", "trace"},
    "vmbus": {"spec", "trace"},
    "image": {"spec", "whole_file"},
    "root": {"spec", "trace", "vmbus", "image", "instructions", "pci"},   # and the door, handed in to winhv.py
    "child": {"spec", "vmbus"},
    "platform": EVERYTHING, "root_machine": EVERYTHING, "bare_machine": EVERYTHING,
    "replay": EVERYTHING, "debug": EVERYTHING, "step": EVERYTHING, "lab": EVERYTHING,
    "commands": EVERYTHING, "cli": EVERYTHING, "__main__": EVERYTHING,
}
ONLY_HERE = {
    "unicorn": ("machine/engine.py", "machine/guest_mode.py", "machine/breakpoints.py", "machine/context.py",
                "machine/debug_addresses.py", "machine/hooks.py", "machine/countdown.py", "commands/baseline.py"),
    "keystone": ("image/",),
    "textual": ("step/app/",),
}


def room_of(path: Path, tree: Path) -> str:
    return path.relative_to(tree).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of all modules *path* imports, wherever in the file; a relative import begins with a dot."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"hv.{alias.name}" for alias in node.names} if module == "hv" else {module}
    return found - {"hv.__version__"}     # the package's own word, no room


def imports_at_run_time(path: Path) -> set[str]:
    """The modules that `from ... import` names, without what is for annotations only."""
    nodes = [ast.parse(path.read_text(encoding="utf-8"), str(path))]
    found = set()
    while nodes:
        match nodes.pop():
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.ImportFrom(module=module):
                found.add(module)
            case node:
                nodes.extend(ast.iter_child_nodes(node))
    return found


def broken_rules(tree: Path) -> list[str]:
    """One line for each import that the tables forbid."""
    broken = []
    for path in sorted(tree.rglob("*.py")):
        name, room = path.relative_to(tree).as_posix(), room_of(path, tree)
        allowed = set() if room == "__init__" else MAY_IMPORT.get(room, set())
        if room != "__init__" and room not in MAY_IMPORT:
            broken.append(f"{name} is in no room of the table")
        for module in sorted(imports(path)):
            top, _, rest = module.partition(".")
            other = rest.partition(".")[0]
            if not top:
                broken.append(f"{name} imports relatively: {module}")
            elif top == "hv" and other and allowed is not EVERYTHING and other not in allowed | {room}:
                broken.append(f"{name} reaches into hv.{other}")
            elif top in ONLY_HERE and not name.startswith(ONLY_HERE[top]):
                broken.append(f"{name} imports {top}; only {', '.join(ONLY_HERE[top])} may")
    return broken


def rooms_imported(tree: Path) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for path in tree.rglob("*.py"):
        room = room_of(path, tree)
        others = {name.split(".")[1] for name in imports(path) if name.startswith("hv.")}
        graph.setdefault(room, set()).update(others - {room})
    return graph


def test_every_room_keeps_to_its_imports():
    assert broken_rules(TREE) == []


def test_the_rooms_have_no_cycles():
    TopologicalSorter(rooms_imported(TREE)).prepare()


def rooms_of_the_hypervisor(tree: Path) -> dict[str, set[str]]:
    """Which of its rooms and files imports which at run time."""
    graph: dict[str, set[str]] = {}
    for path in (tree / "hypervisor").rglob("*.py"):
        room = room_of(path, tree / "hypervisor")
        others = {name.split(".")[2] for name in imports_at_run_time(path) if name.startswith("hv.hypervisor.")}
        graph.setdefault(room, set()).update(others - {room})
    return graph


def test_the_rooms_of_the_hypervisor_have_no_cycles():
    TopologicalSorter(rooms_of_the_hypervisor(TREE)).prepare()


def test_the_hypervisor_lists_its_rooms_from_the_top_down():
    """Each imports only what the list has below it, and every room is in it."""
    listed = re.findall(r"^    ([a-z]+)(?:/|\.py) ", hv.hypervisor.__doc__, re.MULTILINE)
    rooms = rooms_of_the_hypervisor(TREE)
    assert set(rooms) - set(listed) == {"__init__", "verdicts", "errors"}
    for room, others in rooms.items():
        above = listed[:listed.index(room)] if room in listed else listed
        assert not others.intersection(above), f"{room} is below what it imports"


def test_a_cycle_between_rooms_of_the_hypervisor_is_found_unless_it_is_for_annotations(tmp_path):
    down = "import typing\nfrom hv.hypervisor.memory.pages import PagePool\n"
    tree = planted(tmp_path, {
        "hypervisor/vps/vp.py": down,
        "hypervisor/memory/pages.py": "if TYPE_CHECKING:\n    from hv.hypervisor.vps.vp import VirtualProcessor\n",
    })
    TopologicalSorter(rooms_of_the_hypervisor(tree)).prepare()
    planted(tmp_path, {"hypervisor/memory/late.py": "def late():\n    from hv.hypervisor.vps import vp\n"})
    with pytest.raises(CycleError):
        TopologicalSorter(rooms_of_the_hypervisor(tree)).prepare()


def test_the_table_itself_has_no_cycles():
    TopologicalSorter({room: others for room, others in MAY_IMPORT.items() if others}).prepare()


def planted(tree: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return tree


def test_a_planted_violation_is_named(tmp_path):
    tree = planted(tmp_path, {
        "vmx/bad.py": "def late():\n    from hv.hypervisor.vp import VirtualProcessor\n",
        "vmx/good.py": "import struct\nfrom hv.machine.ram import PhysicalMemory\nfrom hv.vmx import vcpu\n",
        "root/vmms.py": "from hv import hypervisor\n",
        "iommu/near.py": "from . import tables\n",
        "machine/lp.py": "import unicorn\n",
        "machine/engine.py": "import unicorn.x86_const\n",
        "debug/repl.py": "import hv.hypervisor.run\n",
        "utils/misc.py": "",
    })
    assert broken_rules(tree) == [
        "iommu/near.py imports relatively: .",
        f"machine/lp.py imports unicorn; only {', '.join(ONLY_HERE['unicorn'])} may",
        "root/vmms.py reaches into hv.hypervisor",
        "utils/misc.py is in no room of the table",
        "vmx/bad.py reaches into hv.hypervisor",
    ]


def test_a_planted_cycle_is_found(tmp_path):
    tree = planted(tmp_path, {"debug/a.py": "import hv.lab.b", "lab/b.py": "import hv.debug.a"})
    with pytest.raises(CycleError) as caught:
        TopologicalSorter(rooms_imported(tree)).prepare()
    assert set(caught.value.args[1]) == {"debug", "lab"}


def complements_of_flags(tree: Path) -> list[str]:
    """Each `~X` in which X is an enumeration's flag, by file and line."""
    found = []
    for path in sorted(tree.rglob("*.py")):
        inverted = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
                    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert)]
        if not inverted:
            continue
        names = vars(importlib.import_module(".".join(path.relative_to(tree.parent).with_suffix("").parts)))
        for node in inverted:
            first, *rest = ast.unparse(node.operand).split(".")
            value = names.get(first)
            for name in rest:
                value = getattr(value, name, None)
            if isinstance(value, enum.Flag):
                found.append(f"{path.relative_to(tree).as_posix()}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_mask_is_the_complement_of_a_flag():
    """It has bits up to the highest named one only, so what lies above passes every check: write `~int(flag)`."""
    assert complements_of_flags(TREE) == []
