"""Kernels from the command line, from a description and from a recording: what they are handed, and what is refused."""

import json

import pytest

from hv.cli import main
from hv.commands import description, run
from hv.commands.errors import CommandError
from tests.kernels import bzimage, packed, vmlinux


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a kernel, and what may be handed to it."""
    (tmp_path / "vmlinuz").write_bytes(bzimage(packed(vmlinux())))
    (tmp_path / "initrd").write_bytes(b"files\0")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    (tmp_path / "guest.asm").write_text("hlt\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments):
    """Exit code, standard output and standard error of `hv` with *arguments*."""
    code = main(list(arguments))
    out, error = capsys.readouterr()
    return code, out, error


HANDED = ("--cmdline", "root=/dev/ram", "--initrd", "initrd", "--mem", "32")


def test_a_kernel_runs_with_what_it_is_handed(capsys, folder):
    code, out, _ = said(capsys, "run", "vmlinuz", *HANDED, "--json")
    outcome = json.loads(out)
    assert (code, outcome["kind"], outcome["ended"], outcome["serial"]) == (
        0, "linux", "shutdown", "hello root=/dev/ram|files")


def test_a_recorded_kernel_comes_to_the_same_end(capsys, folder):
    """The recording holds the kernel and all it was handed, so that no file is needed again."""
    assert said(capsys, "run", "vmlinuz", *HANDED, "--record", "out.hvreplay")[0] == 0
    for name in ("vmlinuz", "initrd"):
        (folder / name).unlink()
    code, out, _ = said(capsys, "replay", "out.hvreplay", "--json")
    assert (code, json.loads(out)["serial"]) == (0, "hello root=/dev/ram|files")


def test_a_described_kernel_runs(capsys, folder):
    (folder / "sub").mkdir()
    (folder / "vmlinuz").rename(folder / "sub" / "vmlinuz")
    (folder / "initrd").rename(folder / "sub" / "initrd")
    (folder / "sub" / "machine.toml").write_text(
        '[[vm]]\nname = "a"\nimage = "vmlinuz"\ncmdline = "x=1"\ninitrd = "initrd"\nmemory_mib = 32\n')
    assert said(capsys, "run", "sub/machine.toml")[1] == "hello x=1|files\n"


def test_a_kernel_has_more_memory_more_time_and_a_pc(folder):
    kernel, guest = (description.single(folder / name, "a") for name in ("vmlinuz", "guest.asm"))
    assert [(one.vms[0].memory_mib, one.vms[0].pc, run.default_budget(one)) for one in (kernel, guest)] == [
        (256, True, 60 * 2 * 10**9), (16, False, 200 * 2 * 10**6)]
    with_pc = description.single(folder / "guest.asm", "a", keys={"pc": True})
    assert (with_pc.vms[0].memory_mib, with_pc.vms[0].pc) == (16, True)


def test_any_guest_may_have_a_pc(capsys, folder):
    """Port 0x80 is there on a PC, and shows what is written to it."""
    (folder / "post.asm").write_text("mov al, 0x42\nout 0x80, al\nin al, 0x80\ncmp al, 0x42\n"
                                     "jne wrong\nhlt\nwrong: ud2\n")
    assert said(capsys, "run", "post.asm", "--pc")[0] == 0
    assert said(capsys, "run", "post.asm")[0] == 3


def test_the_repl_takes_a_kernel(capsys, folder):
    code, out, _ = said(capsys, "repl", "vmlinuz", *HANDED, "-c", "regs")
    assert code == 0
    assert "rip" in out
    assert "1000000" in out


@pytest.mark.parametrize(("arguments", "part"), [
    (("guest.asm", "--initrd", "initrd"), "guest: an initrd is for kernels of kind linux"),
    (("guest.asm", "--cmdline", "x"), "guest: a command line is for kernels of kind linux"),
    (("guest.asm", "--module", "initrd"), "guest: a module is for kernels of kind multiboot"),
    (("vmlinuz", "--mem", "32", "--module", "initrd"), "vmlinuz: a module is for kernels of kind multiboot"),
    (("guest.asm", "--no-unpack"), "guest.asm is no Linux kernel"),
    (("vmlinuz", "--initrd", "nosuch"), "nosuch cannot be read: No such file or directory"),
    (("vmlinuz", "--initrd", ""), "cannot be read"),
    (("vmlinuz", "--initrd", "a\0b"), "cannot be read"),
    (("vmlinuz", "--initrd", "empty"), "empty is empty"),
    (("vmlinuz", "--initrd", "large", "--mem", "2"), "large is larger than the VM's memory, 2 MiB"),
    (("vmlinuz", "--initrd", "large", "--mem", "21"), "the initrd has 0x300000 bytes; between"),
    (("vmlinuz", "--mem", "4"), "vmlinuz needs memory up to 0x1400000; it has 4 MiB"),
    (("vmlinuz", "--mem", "32", "--cmdline", "x" * 3000), "the command line has 3000 bytes, the kernel takes 2047"),
    (("vmlinuz", "--module", " "), "a module is ' '; expected a file"),
    (("machine.toml", "--cmdline", "x"), "--cmdline says what machine.toml says itself"),
    (("guest.asm", "--root", "--pc"), "--pc is for a VM"),
])
def test_what_does_not_go_together_is_one_line(capsys, folder, arguments, part):
    (folder / "machine.toml").write_text('[[vm]]\nname = "a"\nimage = "guest.asm"\n')
    code, out, error = said(capsys, "run", *arguments)
    assert (code, out) == (2, "")
    assert part in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("line", "part"), [
    ('initrd = "nosuch"', "vm 1: nosuch cannot be read"), ("pc = 1", "`pc` is an integer"),
    ("modules = [1]", "a module is 1; expected a file"), ('modules = "a"', "`modules` is a string"),
    ("unpack = false", "guest.asm is no Linux kernel"), ("cmdline = 1", "`cmdline` is an integer"),
])
def test_a_mistake_in_a_description_is_named(folder, line, part):
    (folder / "machine.toml").write_text(f'[[vm]]\nname = "a"\nimage = "guest.asm"\n{line}\n')
    with pytest.raises(CommandError) as caught:
        description.read(folder / "machine.toml")
    assert part in str(caught.value)
