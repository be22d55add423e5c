"""L1's QEMU gives L2 the PE by the same numbers as L0 has; L0 gives L1 what it needs for that."""

from qemuline import devices, line, options, values

from tcelab.passthrough.innerqemu import argv, inner_options
from tcelab.program.topology import PASSTHROUGH
from tcelab.qemu import machine, nested


def words(page_size=4096):
    return argv(options(PASSTHROUGH, memory=1024), page_size)


def test_l2_has_bridge_window_and_device_where_l0_has_them():
    inner, outer = words(), line(PASSTHROUGH, fds=FDS)
    (bridge,) = [each for each in devices(outer, "spapr-pci-host-bridge") if each["index"] == "1"]
    assert devices(inner, "spapr-pci-host-bridge") == [bridge]
    (passed,), (device,) = devices(inner, "vfio-pci"), [e for e in devices(outer, "edu") if e["id"] == "pe1"]
    assert passed == {"host": "{device}", **{name: device[name] for name in ("bus", "addr", "id")}}


def test_l1_with_small_pages_backs_no_larger_ones():
    assert "cap-hpt-max-page-size=4096" in values(words(), "-M")[0]
    assert "hpt" not in values(words(65536), "-M")[0]


def test_l2s_agent_and_console_go_by_the_ports_of_l1():
    said = values(words(), "-chardev")
    assert said == [
        f"pipe,id={name},path={{{port}}}"
        for name, port in zip(("console", "agent"), reversed(nested.PORTS.values()), strict=True)
    ]


def test_l2s_kernel_is_told_about_its_own_memory():
    (told,) = values(words(), "-append")
    assert told == machine.command_line(inner_options(options(PASSTHROUGH, memory=1024)))
    assert "mem=240M" in told


FDS = machine.Descriptors(
    qmp=11, qtest=17, console=12, agent=13, log=14, ram=15, state=16, roms={"edu": 19}, inner_agent=20, inner_console=21
)


def test_l0_counts_instructions_and_has_a_port_for_each_way_to_l2():
    told = line(PASSTHROUGH, fds=FDS)
    assert values(told, "-icount") == ["shift=0"]
    assert ",cap-nested-hv=on" in values(told, "-M")[0]
    names = {each["chardev"]: each.get("name") for each in devices(told, "virtserialport")}
    assert {name: names[name] for name in nested.PORTS} == nested.PORTS
    assert {"socket,id=inner_agent,fd=20", "socket,id=inner_console,fd=21"} <= set(values(told, "-chardev"))
    assert {20, 21} <= set(FDS.all())


def test_any_other_machine_has_none_of_it():
    told = line("one-pe")
    assert values(told, "-icount") == []
    assert "nested" not in values(told, "-M")[0]
    assert not any("inner" in word for word in told)
