#!/usr/bin/env bash
# QEMU 11.1.3 (Debian, ppc64): a pseries-10.0 machine with a virtio PCI device that QEMU 10.0.13 has saved cannot be loaded.
#
# Guessed: a versioned machine type is there so that a newer QEMU takes in what an older one has saved. 11.1.3 offers
#   pseries-10.0, so it loads it, as 10.0.13 does.
# Seen: "VQ 0 vring.num 1024 exceeds allocated max 8", for a virtio-rng that no guest has touched, and the load fails. The
#   other way round, 11.1.3 to 10.0.13, and each into itself, it completes.
# Worth knowing for whoever tests migration between versions: take a machine without virtio PCI devices, or go from the
#   newer to the older one.
#
# Needs a Debian host (amd64) with apt and its archive's keys; 190 MB. Exit 0: as described; 1: it changed; 125: it could not
# be tried.
# shellcheck source=/dev/null disable=SC2154 # work, emulator: from there
cd "$(dirname "$0")" && . qemu/debian.bash || exit 125

fetch old 1:10.0.13+ds-0+deb13u1 trixie trixie-updates || exit 125
fetch new 1:11.1.3+ds-1~bpo13+1 trixie trixie-updates trixie-backports || exit 125

qemu() { # NAME OPTIONS...: reads QMP from its input
    emulator "$1"
    shift
    "${emulator[@]}" -nodefaults -display none -S -m 256M \
        -M pseries-10.0,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off \
        -device virtio-rng-pci -qmp stdio "$@" 2>&1
}
move() { # NAME COMMAND FILE OPTIONS...: how the migration ended
    local name="$1" command="$2" file="$3"
    shift 3
    {
        echo '{"execute": "qmp_capabilities"}'
        printf '{"execute": "%s", "arguments": {"uri": "file:%s"}}\n' "$command" "$file"
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            sleep 1
            echo '{"execute": "query-migrate"}'
        done
        echo '{"execute": "quit"}'
    } 2>/dev/null | qemu "$name" "$@" | grep -Eo 'vring.num [0-9]+ exceeds|"status": "(completed|failed)"' | tail -n 1
}
for name in old new; do
    emulator "$name"
    "${emulator[@]}" --version | head -n 1
    [ "$(move "$name" migrate "$work/$name.state")" = '"status": "completed"' ] || exit 125
done
told=""
for from in old new; do
    for to in old new; do
        how="$(move "$to" migrate-incoming "$work/$from.state" -incoming defer)"
        printf '%s to %s: %s\n' "$from" "$to" "$how"
        told="$told$how;"
    done
done
right='"status": "completed"'
[ "$told" = "$right;vring.num 1024 exceeds;$right;$right;" ]
