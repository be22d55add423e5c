#!/usr/bin/env bash
# QEMU 11.1.3 (Debian, ppc64, pseries): a device behind vfio-user-pci is told other permissions than a TCE has.
#
# Guessed: what H_PUT_TCE stores, the device is told. The protocol's DMA_MAP has a flag for reading and one for writing, so a server
#   that keeps a table of what it was told has that of the machine.
# Seen: such a table differs in three ways. A write-only TCE is told as readable as well (as QEMU does to any VFIO container). An
#   address without permissions is told as the end of a mapping, where there was none. A TCE that leads beyond the machine's RAM is not
#   told at all, though H_PUT_TCE succeeds and H_GET_TCE gives it back.
#       read and write, TCE 0x8000003: status 0, told: map 0x10000, 4096 bytes, read and write
#       write only, TCE 0x8001002: status 0, told: map 0x11000, 4096 bytes, read and write
#       read only, TCE 0x8002001: status 0, told: map 0x12000, 4096 bytes, read
#       no permissions, TCE 0x8003000: status 0, told: unmap 0x13000, 4096 bytes
#       beyond RAM, TCE 0x70000003: status 0, told: nothing
# Worth knowing for whoever builds a device behind vfio-user, or judges a guest's mappings by its messages: compare permissions with
#   H_GET_TCE, and do not take an unmap of what is not there for an error.
#
# Needs python3 and a Debian host (amd64) with apt and its archive's keys; 95 MB. Exit 0: as described; 1: it changed; 125: it
# could not be tried.
# shellcheck source=/dev/null
cd "$(dirname "$0")" && . qemu/debian.bash || exit 125

expected='read and write, TCE 0x8000003: status 0, told: map 0x10000, 4096 bytes, read and write
write only, TCE 0x8001002: status 0, told: map 0x11000, 4096 bytes, read and write
read only, TCE 0x8002001: status 0, told: map 0x12000, 4096 bytes, read
no permissions, TCE 0x8003000: status 0, told: unmap 0x13000, 4096 bytes
beyond RAM, TCE 0x70000003: status 0, told: nothing'
try_11_1 "$expected" <<'PY'
from pathlib import Path

from pseries import DONE, LIOBN, WORK, Machine, firmware
from vfiouser import two_devices

ENTRIES = (
    ("read and write", 0x10000, 0x8000003),
    ("write only", 0x11000, 0x8001002),
    ("read only", 0x12000, 0x8002001),
    ("no permissions", 0x13000, 0x8003000),
    ("beyond RAM", 0x14000, 0x70000003),
)
trace = Path(WORK, "trace")
devices, options = two_devices(Path(WORK))
calls = firmware(*((0x20, LIOBN, ioba, tce) for _, ioba, tce in ENTRIES))
watched = ("-trace", "spapr_iommu_pci_put", "-D", str(trace))
Machine("machine", "-bios", calls, *watched, *options).until(f"read {DONE} 4", 1, 1)
lines = [line for line in trace.read_text().splitlines() if "spapr_iommu_pci_put" in line]
for (name, ioba, tce), line in zip(ENTRIES, lines, strict=True):
    told = [each for each in devices[0].told if f" {ioba:#x}," in each]
    print(f"{name}, TCE {tce:#x}: status {line.rpartition('ret=')[2]}, told: {'; '.join(told) or 'nothing'}")
PY
