#!/usr/bin/env bash
# QEMU 11.1.3 (Debian, ppc64, pseries): a PE is left without any DMA window when the last one to go is one that was made.
#
# Guessed: LoPAR has ibm,remove-pe-dma-window restore the default window when the last window goes and is not the default
#   one, which is what "ibm,dma-window" describes, with 4 KiB pages, before anything was removed. QEMU does so for a
#   64-bit window.
# Seen: a window that is made when there is no other gets the LIOBN and the place of the default one, and passes for it
#   whatever its size and pages are. It goes, and nothing comes: a query offers both windows, and all DMA is refused until
#   a reset. The mark sits on the table with that LIOBN, and a new window does not clear it.
#       default removed, 64-bit window last: statuses 0 0; more windows on offer: 1
#       default removed, window in its place last: statuses 0 0; more windows on offer: 2
# Worth knowing for whoever makes windows in the order of LoPAR's example (remove the default one, query, create): call
#   ibm,reset-pe-dma-window afterwards, as Linux does, and do not count on the rule.
#
# Needs python3 and a Debian host (amd64) with apt and its archive's keys; 95 MB. Exit 0: as described; 1: it changed; 125: it
# could not be tried.
# shellcheck source=/dev/null
cd "$(dirname "$0")" && . qemu/debian.bash || exit 125

expected='default removed, 64-bit window last: statuses 0 0; more windows on offer: 1
default removed, window in its place last: statuses 0 0; more windows on offer: 2'
try_11_1 "$expected" <<'PY'
import sys

from pseries import BRIDGE, LIOBN, Machine

machine = Machine("machine", "-S")


def remove(liobn):
    return machine.rtas("ibm,remove-pe-dma-window", liobn)[0]


def create(liobn):  # pages of 64 KiB, 1 GiB
    if machine.rtas("ibm,create-pe-dma-window", 0, *BRIDGE, 16, 30, results=4)[:2] != [0, liobn]:
        sys.exit("no window, or another one")


def tell(what, *statuses):
    status, windows, *_ = machine.rtas("ibm,query-pe-dma-window", 0, *BRIDGE, results=5)
    if status:
        sys.exit("no answer to the query")
    print(f"{what}: statuses", *statuses, end=f"; more windows on offer: {windows}\n")


create(LIOBN + 1)
tell("default removed, 64-bit window last", remove(LIOBN), remove(LIOBN + 1))
machine.rtas("ibm,reset-pe-dma-window", 0, *BRIDGE)
gone = remove(LIOBN)
create(LIOBN)
tell("default removed, window in its place last", gone, remove(LIOBN))
PY
