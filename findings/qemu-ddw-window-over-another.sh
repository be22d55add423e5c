#!/usr/bin/env bash
# QEMU 11.1.3 (Debian, ppc64, pseries): ibm,create-pe-dma-window grants a second DMA window at the bus address of a live one.
#
# Guessed: LoPAR has the call return the LIOBN and the start of the window that it has made, and success only if there is
#   one. Two windows of one PE are therefore apart, and a TCE put into either is what devices find there.
# Seen: with a 64-bit window open, the default one removed and another one asked for, both have 0x800000000000000 as their
#   start: firmware looks only at whether any window is left. Devices are shown the first; what is put into the second one's
#   table is accepted, and nobody ever reads it.
#       64-bit window made: status 0, LIOBN 80000001, start 800000000000000
#       default window removed: status 0
#       another one made: status 0, LIOBN 80000000, start 800000000000000
#       devices see: tce-iommu-80000001
# Worth knowing for whoever removes the default window: do so before the first create, as LoPAR's example does; then the
#   two are at 0 and at 0x800000000000000. A start that is in use already is no window.
#
# Needs python3 and a Debian host (amd64) with apt and its archive's keys; 95 MB. Exit 0: as described; 1: it changed; 125: it
# could not be tried.
# shellcheck source=/dev/null
cd "$(dirname "$0")" && . qemu/debian.bash || exit 125

expected='64-bit window made: status 0, LIOBN 80000001, start 800000000000000
default window removed: status 0
another one made: status 0, LIOBN 80000000, start 800000000000000
devices see: tce-iommu-80000001'
try_11_1 "$expected" <<'PY'
import re

from pseries import BRIDGE, LIOBN, Machine

machine = Machine("machine", "-S")


def create(what):  # pages of 64 KiB, 1 GiB
    status, liobn, high, low = machine.rtas("ibm,create-pe-dma-window", 0, *BRIDGE, 16, 30, results=4)
    print(f"{what}: status {status}, LIOBN {liobn:x}, start {high << 32 | low:x}")


create("64-bit window made")
print("default window removed: status", *machine.rtas("ibm,remove-pe-dma-window", LIOBN))
create("another one made")
view = machine.qmp("human-monitor-command", **{"command-line": "info mtree -f"})
print("devices see:", *sorted(set(re.findall("tce-iommu-[0-9a-f]+", view))))
PY
