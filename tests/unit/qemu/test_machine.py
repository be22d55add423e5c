"""QEMU's command line: every option on which safety or truth rests is there, and nothing that was not asked for."""

from __future__ import annotations

import shlex

import pytest
from fake_guest import abilities
from qemuline import FDS, FORK, LOADED, devices, line, options, values

from tcelab.errors import Unsupported, UsageError
from tcelab.papr.window import Shape
from tcelab.program import topology as topology_module
from tcelab.program.topology import Device, Phb, Topology, topology
from tcelab.qemu import machine, transit
from tcelab.qemu.probe import LOG_FLAGS, TRACES

SPARE = {"index": "30", "id": "phb30", "dma_win_size": "0x1000000", "ddw": "on"}
NO_DEVICE = Topology("bare", (Phb(1),))


def test_every_device_under_test_has_a_full_dma_mask_and_its_own_slot_on_its_own_phb():
    full, ones = {"dma_mask": "0xffffffffffffffff"}, {"romfile": "/proc/self/fd/19"}
    assert devices(line("three-pe"), "edu") == [
        *({"id": f"pe{i}", "bus": f"phb{i}.0", "addr": f"{i:#x}"} | full | ones for i in (1, 2, 3)),
        {"id": "spare", "bus": "phb30.0", "addr": "0x1e"} | full,
    ]


def test_a_slot_is_where_the_topology_has_it():
    where = Topology("far", (Phb(5, (Device("x", slot=17),), 1 << 24),))
    assert devices(line(where), "edu")[0]["addr"] == "0x11"
    assert devices(line(where), "spapr-pci-host-bridge") == [
        {"index": "5", "id": "phb5", "dma_win_size": "0x1000000", "ddw": "on"},
        SPARE,
    ]


def test_phbs_under_test_have_their_window_and_dynamic_windows():
    assert devices(line(), "spapr-pci-host-bridge") == [
        {"index": "1", "id": "phb1", "dma_win_size": "0x40000000", "ddw": "on"},
        {"index": "2", "id": "phb2", "dma_win_size": "0x40000000", "ddw": "on"},
        SPARE,
    ]


def test_a_window_that_does_not_start_at_0_is_asked_for():
    assert devices(line("high-window"), "spapr-pci-host-bridge") == [
        {"index": "1", "id": "phb1", "dma_win_size": "0x1000000", "ddw": "on", "dma_win_addr": "0x40000000"},
        {"index": "2", "id": "phb2", "dma_win_size": "0x1000000", "ddw": "on"},
        SPARE,
    ]


def test_a_phb_that_offers_fewer_page_sizes_is_told_which():
    offered = [each.get("pgsz") for each in devices(line("direct-pages"), "spapr-pci-host-bridge")]
    assert offered == ["0x1000", "0x11000", "0x211000", None]


def test_a_device_has_its_mask():
    masks = [device["dma_mask"] for device in devices(line("narrow-mask"), "edu")]
    assert masks == ["0xfffffff", "0xffffffffffffffff", "0xffffffffffffffff"]


def test_the_spare_pe_is_made_once_also_for_a_program_that_uses_it():
    used = Topology("warm", (Phb(1, (Device("pe1", 1),)), topology_module.SPARE))
    assert line(used) == line("one-pe")


def test_the_channels_phb_has_a_small_window_and_no_dynamic_one():
    assert values(line(), "-global") == [
        "spapr-pci-host-bridge.dma_win_size=0x1000000",
        "spapr-pci-host-bridge.ddw=off",
    ]


def test_the_agents_channel_is_on_the_phb_of_its_own():
    words = line()
    assert devices(words, "virtio-serial-pci") == [{"id": "channel", "bus": "pci.0", "addr": "0x1f", "romfile": ""}]
    (port,) = devices(words, "virtserialport")
    assert port == {"bus": "channel.0", "chardev": "agent", "name": "org.tcelab.agent", "id": "agent-port"}


def test_a_network_card_leads_from_the_hosts_loopback_to_the_guests_sshd_and_nowhere_else():
    assert not values(line(), "-netdev")
    words = line(network=True)
    (way,) = values(words, "-netdev")
    assert way == "user,id=ssh-net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"
    (card,) = devices(words, "virtio-net-pci")
    assert (card["netdev"], card["bus"], card["romfile"]) == ("ssh-net", "pci.0", "")
    slots = {each.slot for each in topology("four-pe").devices}
    assert int(card["addr"], 16) not in slots | {topology_module.CHANNEL_SLOT, topology_module.SPARE_PHB}
    assert devices(line(fds=FORK, network=True), "virtio-net-pci") == [card]


def test_guest_ram_is_the_harnesss_own_file_shared_and_the_machines_memory():
    words = line(memory=768)
    assert values(words, "-object") == ["memory-backend-file,id=ram,size=768M,mem-path=/proc/self/fd/15,share=on"]
    assert "memory-backend=ram" in values(words, "-M")[0].split(",")
    assert values(words, "-m") == ["768M"]


@pytest.mark.parametrize(
    ("cpu", "model", "radix"),
    [
        ("power8", "power8", True),
        ("power9", "power9", True),
        ("power9-hash", "power9", False),
        ("power11",) * 2 + (True,),
    ],
)
def test_the_cpu_is_the_one_that_was_chosen_and_the_kernel_is_told_to_keep_off_the_radix_mmu(cpu, model, radix):
    words = line(cpu=cpu)
    assert values(words, "-cpu") == [model]
    assert ("disable_radix" not in values(words, "-append")[0].split()) is radix
    assert values(line(), "-cpu") == ["power9"]


def test_a_qemu_without_the_cpu_is_told_before_it_starts():
    with pytest.raises(Unsupported, match="has no CPU power11") as caught:
        machine.check(abilities(cpus=("power9", "power10")), options().topology, "power11")
    assert "--cpu power9" in caught.value.next_step
    machine.check(abilities(cpus=("power9", "power10")), options().topology, "power9-hash")


def test_a_guest_that_panics_stands_and_one_that_reboots_ends():
    assert values(line(), "-action") == ["panic=pause,reboot=shutdown"]


def test_the_kernel_dies_of_its_own_trouble_and_leaves_the_top_of_ram_alone():
    (given,) = values(line(memory=512, append="quiet debug=1"), "-append")
    words = given.split()
    assert words[-2:] == ["quiet", "debug=1"]
    assert {
        *("console=hvc0", "panic=-1", "oops=panic", "softlockup_panic=1", "hung_task_panic=1"),
        *("transparent_hugepage=never", "mem=496M"),
    } <= set(words)
    assert values(line(), "-append")[0] == values(line(), "-append")[0].strip()


def test_everything_is_connected_by_inherited_descriptors():
    words = line()
    assert values(words, "-chardev") == [
        "socket,id=qmp,fd=11",
        "socket,id=qtest,fd=17",
        "socket,id=console,fd=12",
        "socket,id=agent,fd=13",
    ]
    assert values(words, "-qmp") == ["chardev:qmp"]
    assert (values(words, "-qtest"), values(words, "-qtest-log")) == (["chardev:qtest"], ["none"])
    assert values(words, "-serial") == ["chardev:console"]
    assert values(words, "-D") == ["/proc/self/fd/14"]
    assert FDS.all() == (11, 17, 12, 13, 14, 15, 16, 19)
    assert FORK.all() == (11, 17, 12, 13, 14, 15, 16, 18, 19)


def test_a_fork_gets_neither_kernel_nor_initrd_and_waits_for_its_state():
    words = line(fds=FORK)
    assert {"-kernel", "-initrd", "-append"}.isdisjoint(words)
    assert "-S" in words
    assert values(words, "-incoming") == ["defer"]
    boot = line()
    assert "-S" not in boot
    assert "-incoming" not in boot


def test_a_fork_can_write_nothing_into_its_bases_ram():
    assert values(line(memory=768, fds=FORK), "-object") == [
        "memory-backend-file,id=ram,size=768M,mem-path=/proc/self/fd/15,share=off,readonly=on,rom=off"
    ]


def test_but_for_ram_and_the_beginning_a_fork_is_the_machine_that_was_booted():
    boot, fork = line(append="x"), line(append="x", fds=FORK)
    drop = {*boot} - {*fork}
    assert [word for word in boot if word not in drop and word not in {"-kernel", "-initrd", "-append"}] == [
        word for word in fork if word not in {*fork} - {*boot}
    ]
    assert drop == {"-kernel", "-initrd", "-append", "/k/vmlinux", "/i/initrd"} | {
        *values(boot, "-append"),
        *values(boot, "-object"),
    }
    assert {*fork} - {*boot} == {"-S", "-incoming", "defer", *values(fork, "-object")}


def test_a_machine_can_be_forked_where_qemu_maps_ram_copy_on_write_and_its_tree_lies_above_the_kernels_ram():
    machine.expect_forkable(options(memory=2048), abilities())
    with pytest.raises(Unsupported, match=r"QEMU 9\.9\.9 cannot map a read-only RAM file copy-on-write"):
        machine.expect_forkable(options(), abilities(private_ram=False))
    with pytest.raises(Unsupported, match="with more than 2048 MiB"):
        machine.expect_forkable(options(memory=2304), abilities())


def test_several_cpus_are_loaded_only_by_a_qemu_that_lets_all_of_them_go_on():
    """QEMU 10.0.13 lets the first one go on: the guest's kernel then tells a lockup, which is no defect of it."""
    two = options(topology("two-small-smp"))
    machine.expect_forkable(two, abilities(version="11.1.3"))
    assert transit.impossible(abilities(version="11.1.3", mapped_ram=True), 2) == {}
    old = abilities(version="10.0.13", mapped_ram=True)
    with pytest.raises(Unsupported, match=r"QEMU 10\.0\.13 loads a guest with several CPUs"):
        machine.expect_forkable(two, old)
    assert set(transit.impossible(old, 2)) == {"Save", "Load"}
    assert transit.impossible(old, 1) == {}


def test_the_hosts_own_arguments_of_rtas_lie_where_the_kernel_has_no_memory_and_qemu_no_tree():
    usable = int(values(line(memory=512), "-append")[0].partition("mem=")[2].partition("M")[0]) << 20
    # hw/ppc/spapr.c puts the tree at least FDT_MAX_SIZE, 1 MiB, below the top.
    assert usable + 0x1000 <= (512 << 20) - machine.SCRATCH <= (512 << 20) - (1 << 20) - 0x1000


def test_the_machine_is_emulated_and_brings_nothing_of_its_own():
    words = line()
    assert values(words, "-accel") == ["tcg"]
    assert values(words, "-cpu") == ["power9"]
    assert values(words, "-smp") == ["1"]
    assert values(words, "-display") == values(words, "-vga") == ["none"]
    assert "-nodefaults" in words
    first, *rest = values(words, "-M")[0].split(",")
    assert first == "pseries"
    assert {"ic-mode=xics", "cap-cfpc=broken", "cap-sbbc=broken", "cap-ibs=broken", "cap-ccf-assist=off"} <= set(rest)


def test_kernel_and_initrd_are_those_chosen():
    assert values(line(), "-kernel") == ["/k/vmlinux"]
    assert values(line(), "-initrd") == ["/i/initrd"]


@pytest.mark.parametrize(
    ("firmware", "vof", "given"),
    [("auto", True, True), ("auto", False, False), ("slof", True, False), ("vof", True, True), ("slof", False, False)],
)
def test_vof_is_asked_for_only_where_it_is_chosen_and_there(firmware, vof, given):
    can = abilities(vof=vof)
    assert ("x-vof=on" in values(line(can=can, firmware=firmware), "-M")[0].split(",")) is given
    assert machine.firmware(options(firmware=firmware), can) == ("vof" if given else "slof")


def test_vof_that_is_not_there_is_said():
    with pytest.raises(Unsupported, match=r"QEMU 9\.9\.9 has no VOF") as caught:
        line(can=abilities(vof=False), firmware="vof")
    assert "slof" in caught.value.next_step


def test_every_trace_and_log_flag_that_exists_is_on():
    words = line()
    assert values(words, "-trace") == list(TRACES)
    assert values(words, "-d") == ["guest_errors,invalid_mem"] == [",".join(LOG_FLAGS)]


def test_no_trace_and_no_log_flag_is_asked_for_that_does_not_exist():
    words = line(can=abilities(traces=TRACES[:1], log_flags=("guest_errors",)))
    assert values(words, "-trace") == ["spapr_iommu_new_table"]
    assert values(words, "-d") == ["guest_errors"]
    words = line(can=abilities(traces=(), log_flags=()))
    assert "-trace" not in words
    assert "-d" not in words
    assert values(words, "-D") == ["/proc/self/fd/14"]


def test_qemu_dies_with_us_by_its_own_option_or_by_setpriv():
    assert machine.parent_death(abilities()) == ([], ["-run-with", "exit-with-parent=on"])
    assert machine.parent_death(abilities(exit_with_parent=False)) == (["setpriv", "--pdeathsig", "KILL", "--"], [])


def test_the_windows_of_a_machine_are_those_under_test_the_channels_and_the_spare_one():
    where = Topology("odd", (Phb(1, (), 1 << 30), Phb(3, (), 1 << 22, 1 << 22)))
    assert machine.default_windows(where) == {
        0x80000000: Shape(4096),
        0x80000100: Shape(1 << 18),
        0x80000300: Shape(1 << 10, start=1 << 22),
        0x80001E00: Shape(4096),
    }


def test_a_qemu_without_edu_is_unsupported_only_where_a_device_is_under_test():
    with pytest.raises(Unsupported, match="has no edu device"):
        machine.check(abilities(edu=False), topology("one-pe"))
    machine.check(abilities(edu=False), NO_DEVICE)


def test_a_qemu_that_shows_its_tables_by_one_view_is_enough():
    machine.check(abilities(traces=()), topology("one-pe"))
    machine.check(abilities(device_state=False), topology("one-pe"))
    with pytest.raises(Unsupported, match="neither by trace nor by device state"):
        machine.check(abilities(traces=TRACES[1:], device_state=False), topology("one-pe"))


@pytest.mark.parametrize("memory", [256, 512, 4096])
def test_memory_in_blocks_of_256_mib_can_be(memory):
    machine.check_memory(memory)


@pytest.mark.parametrize("memory", [0, -256, 255, 300, 128])
def test_memory_that_no_pseries_machine_has_is_refused(memory):
    with pytest.raises(UsageError, match=f"{memory} MiB of memory.*multiples of 256 MiB from 256 on"):
        machine.check_memory(memory)


def test_the_command_line_in_the_log_can_be_pasted_into_a_shell():
    words = ["-append", "console=hvc0 x='1'"]
    assert shlex.split(machine.loggable(["my qemu"], words)) == ["my qemu", *words]


def test_a_guest_that_is_loaded_has_ram_of_its_own_its_kernel_and_waits_for_its_state():
    words, boot = line(fds=LOADED), line()
    assert [word for word in words if word not in boot] == ["-S", "-incoming", "defer"]
    assert [word for word in boot if word not in words] == []


def test_devices_in_another_order_are_the_same_devices_and_come_behind_all_phbs():
    words, usual = line("pair", order="reversed"), line("pair")
    assert sorted(words) == sorted(usual)
    fronts = [each.partition(",")[0] for each in values(words, "-device")]
    assert fronts == ["virtio-serial-pci", "virtserialport", *["spapr-pci-host-bridge"] * 2, *["edu"] * 3]
    assert [each["id"] for each in devices(words, "edu")] == ["spare", "pe1b", "pe1"]
    assert devices(words, "spapr-pci-host-bridge") == devices(usual, "spapr-pci-host-bridge")


def test_a_machine_type_is_asked_for_by_name_and_refused_where_qemu_has_it_not():
    (machine_,) = values(line("versioned"), "-M")
    assert machine_.startswith("pseries-10.0,")
    with pytest.raises(Unsupported, match=r"has no machine type pseries-10\.0, as topology versioned says"):
        machine.check(abilities(machines=("pseries-9.2",)), topology("versioned"))
    machine.check(abilities(machines=("pseries-10.0",)), topology("versioned"))


def test_a_machine_type_has_a_version():
    with pytest.raises(ValueError, match=r"not a versioned machine type, as pseries-10\.0: 'pseries'"):
        Topology("x", (Phb(1),), machine_type="pseries")
