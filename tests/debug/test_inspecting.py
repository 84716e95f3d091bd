"""timers, iommu: what counts, and what devices reach."""

from hv.commands.building import build, load_image
from hv.commands.description import MachineDescription, VmDescription
from hv.commands.files import find_guest
from hv.debug.session import Session
from tests.debug.sessions import session_over


def test_timers_shows_those_in_use(timer):
    timer.do("until 1ms")
    shown = timer.value("timers")
    assert shown["apic_timer"]["mode"] == "PERIODIC"
    assert shown["reference_time"] == timer.machine.clock.tsc // 200
    assert "stimer0" not in shown


def test_a_synthetic_timer_in_use_is_shown_until_it_is_over():
    session = session_over(("stimer", "stimer", 1))
    session.do("stop msr STIMER0_CONFIG if value & 1")
    session.do("continue")
    assert session.value("timers")["stimer0"]["enable"] == 1
    session.machine.close()


def test_iommu_shows_what_stopped_the_attacker():
    place = find_guest("attacker")
    machine, vms = build(MachineDescription([VmDescription("attacker", place, device=True)], [], 64))
    session = Session(machine, vms, {"attacker": load_image(place)})
    session.do("stop event DmaFault")
    assert "DmaFault" in session.do("continue")
    (record, *_) = session.value("iommu")["faults"]["records"]
    assert record
    assert "translation/contexts/0x0010" in session.do("iommu")
    machine.close()
