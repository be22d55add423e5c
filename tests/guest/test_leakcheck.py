"""`tcelab leakcheck`: the kernel's own drivers at work, and mappings that are really left behind."""

import json
import struct

import pytest
from dmafaults import MODULE, dma_faults, python, unpacked

from calls import tcelab

pytestmark = pytest.mark.guest

DISK, NET, EDU = 0x80000100, 0x80000200, 0x80000300
RAM = 496 << 20

# Hypercalls as themselves, by the guest's module for raw hypercalls.
HCALL = {"H_PUT_TCE": 0x20, "H_PUT_TCE_INDIRECT": 0x13C, "H_STUFF_TCE": 0x138}

MAP_AND_STAY = """
import ctypes, fcntl, mmap, os, struct, time
(device,) = [each for each in os.listdir("/sys/bus/pci/devices") if each.endswith(":00:03.0")]
number = os.path.basename(os.readlink(f"/sys/bus/pci/devices/{device}/iommu_group"))
container, group = os.open("/dev/vfio/vfio", os.O_RDWR), os.open(f"/dev/vfio/{number}", os.O_RDWR)
fcntl.ioctl(group, 0x20003b68, struct.pack("i", container))
fcntl.ioctl(container, 0x20003b66, 2)
fcntl.ioctl(container, 0x20003b73)
memory = mmap.mmap(-1, 8192)
memory.write(bytes(8192))
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(container, 0x20003b71, struct.pack("=IIQQQ", 32, 2, address, 0x5000, 8192))
os.fork() and os._exit(0)
time.sleep(1000)
"""

# ETHTOOL_SRINGPARAM: 320 instead of 256 receive buffers.
LARGER_RING = """
import ctypes, fcntl, socket, struct
ring = ctypes.create_string_buffer(struct.pack("9I", 0x11, 0, 0, 0, 0, 320, 0, 0, 256), 36)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8946, struct.pack("16sQ", b"eth0", ctypes.addressof(ring)) + bytes(16))
"""


def leakcheck(state, *command, options=()):
    """The exit code, the result, and what was printed."""
    code, call = tcelab("leakcheck", "--json", "-", "--settle", "1", *options, "--", *command, state=state)
    assert call.out, call.err
    return code, json.loads(call.out), call.err


def raw(opcode, *args, tces=()):
    """What a shell has to type to make one hypercall, with a list of TCEs or without."""
    data = b"".join(struct.pack(">Q", word) for word in tces)
    call = struct.pack("<Q4QII", HCALL[opcode], *args, *[0] * (4 - len(args)), 0, len(data))
    octal = "".join(f"\\{byte:03o}" for byte in struct.pack("<4I", 1, 1, 1, 0) + call + data)
    return f"printf '{octal}' >/dev/tce_hcall"


def by(result, law):
    return [each for each in result["findings"] if each["law"] == law]


def table(result, liobn):
    return next(each for each in result["tables"] if each["liobn"] == liobn)


def calls(result, liobn, name, phase="command"):
    """Entries at a time to how often."""
    rows = [each for each in result["calls"] if (each["liobn"], each["hypercall"]) == (liobn, name)]
    return {each["entries"]: each["calls"] for each in rows if each["phase"] == phase}


def test_both_devices_driven_hard_leave_nothing_and_each_entry_gives_what_was_asked_for(tmp_path):
    code, result, said = leakcheck(tmp_path)
    assert code == 0, said
    assert "PASS: no leak (exit code 0)" in said
    put, lists, stuff = (calls(result, DISK, name) for name in ("H_PUT_TCE", "H_PUT_TCE_INDIRECT", "H_STUFF_TCE"))
    assert set(put) == {1}
    assert min(lists) >= 2
    # Four requests of 4 MiB each way, and of each at least one huge page is in one piece.
    assert (max(lists), lists[512] >= 8) == (512, True)
    # What was mapped was unmapped, in batches of the same sizes.
    assert {size: put.get(size, 0) + lists.get(size, 0) for size in {*put, *lists}} == stuff
    pages = sum(size * times for size, times in stuff.items())
    assert pages >= 2 * 4 * (4 << 20) // 4096
    disk = table(result, DISK)
    assert disk["baseline"] == disk["after"] > 0 == disk["unbound"]
    assert table(result, NET)["exchanged"] > 0
    assert {each["permissions"] for each in result["permissions"]} == {"read", "read-write"}
    asked = {(each["liobn"], each["direction"]) for each in result["asked"]}
    assert asked == {(liobn, way) for liobn in (DISK, NET) for way in ("BIDIRECTIONAL", "FROM_DEVICE", "TO_DEVICE")}
    told = sum(put.values()) + sum(lists.values())
    assert result["views"]["asked stored"] > told
    assert result["views"]["stream"] == result["views"]["replay"] >= result["views"]["asked live"] > 0


def test_a_kernel_whose_dma_api_does_wrong_is_found_out(tmp_path):
    """By a module that stands between the DMA API and the disk's table: each fault for a while."""
    load = f"insmod {MODULE} slot=1 fault"
    write = "dd if=/dev/zero of=/dev/vda bs=8k count=1 oflag=direct"
    faults = (
        f"{load}=large-stuff && rmmod dma_faults && {load}=shared && rmmod dma_faults && {load}=both-ways && {write}"
    )
    code, result, said = leakcheck(tmp_path, f"{python(unpacked(dma_faults()))} && {faults}")
    assert code == 1, said
    assert result["could_not"] == []
    assert {each["law"] for each in result["findings"]} == {"limit", "shared", "direction"}
    (large,) = by(result, "limit")
    assert "H_STUFF_TCE of 600 entries" in large["message"]
    (shared,) = by(result, "shared")
    assert (shared["origin"]["entries"], shared["origin"]["number"]) == (17, 17)
    assert "stored by: H_PUT_TCE_INDIRECT of 16 entries" in shared["message"]
    assert {each["tce"] & 3 for each in by(result, "direction")} == {3}
    assert all(
        "gives read-write, and its driver asked for DMA_TO_DEVICE" in e["message"] for e in by(result, "direction")
    )


def test_network_traffic_exchanges_buffers_and_leaves_nothing(tmp_path):
    code, result, said = leakcheck(
        tmp_path, "ping -c 2 10.0.2.2 && ping -c 2 -s 1400 10.0.2.2 && ! ping -c 1 -W 1 10.0.2.77"
    )
    assert code == 0, said
    net = table(result, NET)
    # The place of the last long packet's buffer may be empty until the next one comes.
    assert net["baseline"] >= net["after"] > 200
    assert net["exchanged"] > 0 == net["unbound"]
    gone = calls(result, NET, "H_STUFF_TCE")[1] - calls(result, NET, "H_PUT_TCE")[1]
    assert gone == net["baseline"] - net["after"]
    assert calls(result, NET, "H_STUFF_TCE", "unbind")


def test_entries_that_nobody_removes_are_told_with_their_call_and_broken_laws_with_them(tmp_path):
    pages = [0x1000003, 0x1001001, 0x1002003]
    make_list = raw("H_PUT_TCE_INDIRECT", DISK, 0x3FF00000, 0, 3, tces=pages)
    lies = raw("H_PUT_TCE", NET, 0x3FF80000, RAM | 2)
    # What is refused, and what is larger than a kernel may make it, is a program's own affair, and made no entry.
    others = f"{raw('H_STUFF_TCE', NET, 0x3FF80000, 0, 0)} && {raw('H_STUFF_TCE', DISK, 0x38000000, 0, 976)}"
    code, result, said = leakcheck(tmp_path, f"{make_list} && {lies} && {others}")
    assert code == 1, said
    leaks = {each["ioba"]: each for each in by(result, "leak")}
    assert {ioba: each["tce"] for ioba, each in leaks.items()} == {
        0x3FF00000: pages[0],
        0x3FF01000: pages[1],
        0x3FF02000: pages[2],
        0x3FF80000: RAM | 2,
    }
    assert all(each["outlived"] for each in leaks.values())
    second = leaks[0x3FF01000]
    assert (second["device"], second["origin"]["hypercall"]) == ("disk1", "H_PUT_TCE_INDIRECT")
    assert (second["origin"]["ioba"], second["origin"]["entries"], second["origin"]["number"]) == (0x3FF00000, 3, 2)
    assert second["origin"]["seconds"] > 0
    assert leaks[0x3FF80000]["origin"]["hypercall"] == "H_PUT_TCE"
    assert [each["ioba"] for each in by(result, "permission")] == [0x3FF80000]
    assert [each["ioba"] for each in by(result, "memory")] == [0x3FF80000]
    assert calls(result, DISK, "H_STUFF_TCE")[976] == sum(each["calls"] for each in result["refused"]) == 1
    assert result["could_not"] == by(result, "unbind") == by(result, "limit") == by(result, "direction") == []


def test_a_program_that_leaves_its_mapping_and_a_driver_that_takes_more_are_told_side_by_side(tmp_path):
    code, result, said = leakcheck(tmp_path, f"{python(MAP_AND_STAY)} && {python(LARGER_RING)}")
    assert code == 1, said
    *mappings, ring = by(result, "leak")[::-1]
    assert sorted((each["liobn"], each["ioba"], each["tce"] & 3) for each in mappings) == [
        (EDU, 0x5000, 2),
        (EDU, 0x6000, 2),
    ]
    # The driver keeps those until it is unbound, and others have taken the places of all that were there before.
    net = table(result, NET)
    more = net["after"] - net["baseline"]
    assert more > 60
    assert f"{more} of these {net['after']} entries" in ring["message"]
    assert (ring["liobn"], net["unbound"]) == (NET, 0)
    assert result["could_not"] == by(result, "permission") == []
