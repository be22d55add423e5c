#!/usr/bin/env bash
# QEMU 11.1.3 (Debian, ppc64, pseries): a map that the device behind vfio-user-pci refuses is mapped for its guest.
#
# Guessed: the protocol lets a server answer DMA_MAP with an error. QEMU's VFIO code returns it to the IOMMU's notifier, so H_PUT_TCE
#   fails, or the entry is not kept: pages that the device cannot reach are not shown as mapped.
# Seen: QEMU prints a line. H_PUT_TCE is H_SUCCESS, H_GET_TCE gives the entry, and the next map is asked for as ever. The table and the
#   device differ from then on, and nobody in the guest can know. The unmap of that entry is told as if it had been mapped.
#       H_PUT_TCE at 0x10000: status 0; map 0x10000, 4096 bytes, read and write
#       H_PUT_TCE at 0x11000: status 0; refused with ENOSPC
#       H_GET_TCE at 0x11000: status 0, TCE 0x8001003
#       H_PUT_TCE of 0 at 0x11000: status 0; unmap 0x11000, 4096 bytes
# Worth knowing for whoever tests a guest by such a device: a fault cannot be put into H_PUT_TCE this way.
#
# Needs python3 and a Debian host (amd64) with apt and its archive's keys; 95 MB. Exit 0: as described; 1: it changed; 125: it
# could not be tried.
# shellcheck source=/dev/null
cd "$(dirname "$0")" && . qemu/debian.bash || exit 125

expected='H_PUT_TCE at 0x10000: status 0; map 0x10000, 4096 bytes, read and write
H_PUT_TCE at 0x11000: status 0; refused with ENOSPC
H_GET_TCE at 0x11000: status 0, TCE 0x8001003
H_PUT_TCE of 0 at 0x11000: status 0; unmap 0x11000, 4096 bytes'
try_11_1 "$expected" <<'PY'
import errno
import re
from pathlib import Path

from pseries import DONE, LIOBN, WORK, Machine, firmware
from vfiouser import two_devices

FULL = 0x11000
trace = Path(WORK, "trace")
devices, options = two_devices(Path(WORK), lambda address: errno.ENOSPC if address == FULL else 0)
puts = ((0x10000, 0x8000003), (FULL, 0x8001003))
calls = [(0x20, LIOBN, *each) for each in puts]
bios = firmware(*calls, (0x1C, LIOBN, FULL), (0x20, LIOBN, FULL, 0))
watched = ("-trace", "spapr_iommu_pci_*", "-D", str(trace))
Machine("machine", "-bios", bios, *watched, *options).until(f"read {DONE} 4", 1, 1)
lines = [line for line in trace.read_text().splitlines() if "spapr_iommu_pci_" in line]
status = [re.search(r"ret=(-?\d+)", line)[1] for line in lines]
told = devices[0].told
print(f"H_PUT_TCE at 0x10000: status {status[0]}; {told[0]}")
print(f"H_PUT_TCE at {FULL:#x}: status {status[1]}; {told[1]}")
print(f"H_GET_TCE at {FULL:#x}: status {status[2]}, TCE {re.search(r'tce=(0x[0-9a-f]+)', lines[2])[1]}")
print(f"H_PUT_TCE of 0 at {FULL:#x}: status {status[3]}; {told[2]}")
PY
