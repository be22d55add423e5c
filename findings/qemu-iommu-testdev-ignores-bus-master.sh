#!/usr/bin/env bash
# QEMU 11.1.3 (Debian, ppc64): iommu-testdev goes on with its DMA when bus master is off in its command register.
#
# Guessed: PCI lets a function start no memory request while that bit is clear, and QEMU's other devices keep to it: edu's
#   DMA is dropped. The page on iommu-testdev says that it is no faithful endpoint, and lists what it lacks: this is not
#   among it.
# Seen: it writes, and tells success. It takes the address space that the IOMMU gives for it, and that is the one behind the
#   region which the bit switches. What is not mapped is still refused.
#       bus master on: edu: memory written; iommu-testdev: memory written, result 0
#       bus master off: edu: memory as it was; iommu-testdev: memory written, result 0
#       bus master off, not mapped: iommu-testdev: result dead0002
# Worth knowing for whoever tests that a device is quiet (after a driver's remove, over a kexec, in a frozen PE) with it:
#   clearing bus master stops every other device and not this one. Take its mappings away, or use edu there.
#
# Needs python3 and a Debian host (amd64) with apt and its archive's keys; 95 MB. Exit 0: as described; 1: it changed; 125: it
# could not be tried.
# shellcheck source=/dev/null
cd "$(dirname "$0")" && . qemu/debian.bash || exit 125

expected='bus master on: edu: memory written; iommu-testdev: memory written, result 0
bus master off: edu: memory as it was; iommu-testdev: memory written, result 0
bus master off, not mapped: iommu-testdev: result dead0002'
try_11_1 "$expected" <<'PY'
import struct

from pseries import DONE, LIOBN, MASTER, MEMORY, Machine, firmware

IOVA, PAGE, LEFT = 0x8000, 0x8000000, "0x1122334455667788"
EDU, TESTDEV = 0x200080000000, 0x200080100000
mapping = firmware((0x20, LIOBN, IOVA, PAGE | 3))  # H_PUT_TCE, to read and write
machine = Machine("machine", "-bios", mapping, "-device", "edu,addr=2", "-device", "iommu-testdev,addr=3")


def written():
    return "memory as it was" if machine.qtest(f"read {PAGE} 8") == LEFT else "memory written"


def edu():  # 8 bytes of its own buffer to memory
    machine.qtest(f"write {PAGE} 8 {LEFT}")
    for register, value in (0x80, 0x40000), (0x88, IOVA), (0x90, 8), (0x98, 3):
        machine.qtest(f"writeq {EDU + register} {value}")
    machine.until(f"readq {EDU + 0x98}", 1, 0)
    return written()


def testdev(iova):  # IOVA, where to read back, length, arm; a read of register 0 starts it
    machine.qtest(f"write {PAGE} 8 {LEFT}")
    for register, value in (0x4, iova), (0x8, 0), (0x1C, PAGE), (0x20, 0), (0xC, 8), (0x14, 1):
        machine.qtest(f"write {TESTDEV + register} 4 0x{struct.pack('<I', value).hex()}")
    machine.qtest(f"read {TESTDEV} 4")
    (result,) = struct.unpack("<I", bytes.fromhex(machine.qtest(f"read {TESTDEV + 0x10} 4")[2:]))
    return f"result {result:x}"


machine.until(f"read {DONE} 4", 1, 1)
for slot, bar in (2, EDU), (3, TESTDEV):
    machine.write_config(slot, 0x10, 4, bar & 0xFFFFFFFF)
for state, bits in ("on", MEMORY | MASTER), ("off", MEMORY):
    for slot in 2, 3:
        machine.write_config(slot, 4, 2, bits)
    of_edu, result = edu(), testdev(IOVA)
    print(f"bus master {state}: edu: {of_edu}; iommu-testdev: {written()}, {result}")
print("bus master off, not mapped: iommu-testdev:", testdev(2 * IOVA))
PY
