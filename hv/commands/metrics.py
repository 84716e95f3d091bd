"""How each number of `hv bench` is measured: one function, one round, in the unit of the metric.

A round gives a value and its baseline. Where bare Unicorn is compared with, the two take turns in the same process, a
few times each, and the shortest time of each counts: what else the host does can only make it longer. The medians over
the rounds are taken by `bench.py`. Creating and loading the VM is never inside the time, unless that is measured.

Within this process it is CPU time that counts, which on an idle host is the time of the clock: nothing measured here
waits. Processes of their own, and the way of an interrupt, are measured by the clock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

from hv.commands import baseline, workloads
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.image.model import Image
from hv.platform import Machine, VirtualMachine
from hv.spec.exits import ExitReason
from hv.spec.vmcs import VmcsField
from hv.vmx.checks import entry_result
from hv.vmx.vcpu import Vcpu

TURNS = 3
Round = tuple[float, float | None]      # value, baseline


@dataclass(frozen=True, slots=True)
class Metric:
    """One number: what it is measured in, what we want (at least for a ratio, at most for a time), what it means."""

    name: str
    unit: str
    goal: float
    meaning: str
    measure: Callable[[], Round]


METRICS: list[Metric] = []


def metric(name: str, unit: str, goal: float, meaning: str) -> Callable[[Callable[[], Round]], Callable[[], Round]]:
    """Register a measurement."""
    def register(measure: Callable[[], Round]) -> Callable[[], Round]:
        METRICS.append(Metric(name, unit, goal, meaning, measure))
        return measure
    return register


def run_to_end(machine: Machine, clock: Callable[[], float] = process_time,
               run: Callable[[], object] | None = None) -> float:
    """Seconds of *clock*, from the first instruction until the guests of all VMs have switched themselves off."""
    start = clock()
    (run or machine.run)()
    elapsed = clock() - start
    for vm in machine.vms:
        assert vm.ended == "shutdown", f"{vm.name} ended by {vm.ended}: {vm.why}"
    return elapsed


def run_time(image: Image, prepare: Callable[[Machine, VirtualMachine], None] | None = None,
             device: bool = False) -> float:
    """CPU seconds that a machine takes to run *image* to its end."""
    with closing(Machine(memory_mib=48)) as machine:
        vm = machine.create_vm("bench", image, dma_device=device)
        if prepare is not None:
            prepare(machine, vm)
        return run_to_end(machine)


def alternate(ours: Callable[[], float], bare: Callable[[], float]) -> tuple[float, float]:
    """The shortest time of each, of `TURNS` that they take by turns."""
    times = [(ours(), bare()) for _ in range(TURNS)]
    return min(time for time, _ in times), min(time for _, time in times)


def ratio(loop: str, count: int) -> Round:
    """Speed of *loop* in a guest as a part of its speed on the bare engine; the baseline is 1 by definition."""
    image = workloads.guest(loop, count)
    ours, bare = alternate(lambda: run_time(image), lambda: baseline.seconds(loop, count))
    return bare / ours, 1.0


@metric("guest_integer_ratio", "ratio", 0.7, "speed against bare Unicorn: integer loop, 12 instructions a block")
def _integer() -> Round:
    return ratio(workloads.INTEGER_LOOP, 10_000_000)


@metric("guest_store_ratio", "ratio", 0.7, "speed against bare Unicorn: 8-byte stores to no-execute pages")
def _store() -> Round:
    return ratio(workloads.STORE_LOOP, 800)


def exit_us(loop: str, count: int, tail: str = "") -> Round:
    """Microseconds for one turn of *loop*; the baseline is an empty Python hook of Unicorn, on CPUID."""
    image = workloads.guest(loop, count, tail)
    ours, bare = alternate(lambda: run_time(image),
                           lambda: baseline.seconds(workloads.CPUID_LOOP, count, cpuid_hook=True))
    return ours / count * 1e6, bare / count * 1e6


@metric("cpuid_exit_us", "us", 2.5, "CPUID answered by the hypervisor, there and back")
def _cpuid() -> Round:
    return exit_us(workloads.CPUID_LOOP, 20_000)


@metric("msr_exit_us", "us", 2.5, "RDMSR of HV_X64_MSR_VP_INDEX, there and back")
def _msr() -> Round:
    return exit_us(workloads.MSR_LOOP, 20_000)


@metric("hypercall_us", "us", 4, "HvCallNotifyLongSpinWait as a fast hypercall, there and back")
def _hypercall() -> Round:
    return exit_us(workloads.HYPERCALL_LOOP, 20_000, workloads.HYPERCALL_TAIL)


@metric("vmentry_check_us", "us", 150, "all checks of VM entry, after a change of state; baseline: checks without one")
def _vmentry_check() -> Round:
    """A VP that has run: its state is written, and everything that VM entry checks is checked."""
    with closing(Machine(memory_mib=48)) as machine:
        vcpu = machine.create_vm("bench", workloads.guest(workloads.CPUID_LOOP, 10)).partition.vps[0].vcpu
        run_to_end(machine)
        times = []
        for _ in range(50):
            start = process_time()
            for _ in range(10):
                result = entry_result(vcpu.entry())
            times.append((process_time() - start) / 10)
        assert result.entered, str(result.failure)
        return min(times) * 1e6, float(checks_without_a_write(vcpu))


def checks_without_a_write(vcpu: Vcpu) -> int:
    """How many checks an entry runs when nothing was written that they read."""
    vcpu.checks.check(vcpu.entry(), vcpu.checks.due(()))
    return len(vcpu.checks.due((VmcsField.TSC_OFFSET, VmcsField.EXCEPTION_BITMAP)))


@metric("device_interrupt_us", "us", 40, "from the device's MSI to the handler's first instruction, guest halted")
def _device_interrupt() -> Round:
    """The clock is read when the device sends its MSI, and at the exit of the handler's first instruction, RDMSR."""
    sent: list[float] = []
    taken: list[float] = []

    def watch(machine: Machine, vm: VirtualMachine) -> None:
        device = next(device for device in machine.devices if device.rid == assigned(vm))
        upstream, vp = device.upstream, vm.partition.vps[0]

        class Watched:
            """The device's way to memory, with a clock at its messages."""

            dma_read, dma_write = staticmethod(upstream.dma_read), staticmethod(upstream.dma_write)

            def message(self, source_id: int, address: int, data: int) -> None:
                sent.append(perf_counter())
                upstream.message(source_id, address, data)

        device.upstream = Watched()
        watch_exits(vp, taken)

    run_time(workloads.guest(workloads.DEVICE_LOOP, 300, workloads.DEVICE_TAIL), watch, device=True)
    assert len(sent) == len(taken) == 300, f"{len(sent)} interrupts were sent, {len(taken)} taken"
    return median(after - before for before, after in zip(sent, taken, strict=True)) * 1e6, None


@metric("exits_per_interrupt", "exits", 1, "timer, task priority up, EOI, down, sleep; baseline: not virtualized")
def _exits_per_interrupt() -> Round:
    return exits_per_interrupt(True), exits_per_interrupt(False)


def exits_per_interrupt(apic_virtualization: bool, count: int = 100) -> float:
    """What *count* interrupts more cost of VM exits, divided by their number: the same on every host."""
    few, many = (exits_of(workloads.guest(workloads.TIMER_LOOP, n, workloads.TIMER_TAIL), apic_virtualization)
                 for n in (count, 2 * count))
    return (many - few) / count


def exits_of(image: Image, apic_virtualization: bool) -> int:
    """All VM exits of a guest that runs until it switches itself off."""
    with closing(Machine(memory_mib=48, apic_virtualization=apic_virtualization)) as machine:
        vm = machine.create_vm("bench", image)
        run_to_end(machine)
        return sum(vm.partition.vps[0].vcpu.exits)


def assigned(vm: VirtualMachine) -> int:
    """The requester id of *vm*'s device."""
    assert vm.worker.device is not None, "the VM was made with a device"
    return vm.worker.device.source_id


def watch_exits(vp: VirtualProcessor, times: list[float], reason: ExitReason = ExitReason.RDMSR) -> None:
    """Note the time of each exit of *vp* for *reason*."""
    handle = vp.vcpu.on_exit

    def on_exit(exit: Any) -> bool:
        if exit.reason is reason:
            times.append(perf_counter())
        return handle(exit)

    vp.vcpu.on_exit = on_exit


@metric("partition_create_ms", "ms", 30, "a VM of 16 MiB with one VP, created, loaded and started, all by hypercalls")
def _create() -> Round:
    image = workloads.guest("", 1)
    with closing(Machine(memory_mib=128)) as machine:
        machine.create_vm("first", image)
        times = []
        for n in range(4):
            start = process_time()
            machine.create_vm(f"vm{n}", image)
            times.append(process_time() - start)
        return median(times) * 1e3, None


_RESIDENT = """
from hv.commands import workloads
from hv.platform import Machine
def resident():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1])
image = workloads.guest(workloads.CPUID_LOOP, 1000)
machine = Machine(memory_mib=128)
machine.create_vm("first", image)
machine.run()
before = resident()
for n in range(4):
    machine.create_vm(f"vm{n}", image)
machine.run()
print((resident() - before) / 4 / 1024)
"""


@metric("partition_rss_mb", "MiB", 12, "resident memory of one more VM that has run, beside its RAM")
def _resident() -> Round:
    """Private memory of a fresh process, which RAM (shared) is not part of; the mean of four VMs. Linux only."""
    if not os.path.exists("/proc/self/status"):
        return float("nan"), None
    done = subprocess.run([sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True)
    return float(done.stdout), None


def process_seconds(*arguments: str) -> float:
    """How long a fresh interpreter takes for *arguments*, with the byte code of an earlier start kept, as is usual."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return perf_counter() - start


@metric("import_ms", "ms", 150, "a fresh interpreter that imports the whole machine; baseline: one that does nothing")
def _import() -> Round:
    return process_seconds("-c", "import hv.platform") * 1e3, process_seconds("-c", "pass") * 1e3


@metric("cli_help_ms", "ms", 150, "hv --help; baseline: an interpreter that does nothing")
def _help() -> Round:
    return process_seconds("-m", "hv", "--help") * 1e3, process_seconds("-c", "pass") * 1e3


@metric("demo_s", "s", 2, "hv demo, as a process")
def _demo() -> Round:
    return process_seconds("-m", "hv", "demo", "--plain"), None
