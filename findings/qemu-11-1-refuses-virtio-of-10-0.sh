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
set -u
work="$(mktemp -d)" || exit 125
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2016 # apt's own format, not the shell's
site="$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u | head -n 1)"
[ -n "$site" ] || exit 125

# An apt of its own: nothing of the host's is read but where its archive is, and nothing is installed.
fetch() { # NAME VERSION SUITES...
    local root="$work/$1" version="$2" suite
    shift 2
    mkdir -p "$root"/{state/lists/partial,cache/archives/partial,etc,x}
    : >"$root/status"
    for suite; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main"
    done >"$root/sources.list"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${site%/}-security trixie-security main" \
        >>"$root/sources.list"
    set -- -o Dir::State="$root/state" -o Dir::State::status="$root/status" -o Dir::Cache="$root/cache" \
        -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts=- \
        -o Dir::Etc::parts="$root/etc" -o APT::Sandbox::User=root -o APT::Install-Recommends=0 -o APT::Architecture=amd64 -o Debug::NoLocking=1 -qq
    apt-get "$@" update &&
        apt-get "$@" --yes --download-only install "qemu-system-ppc=$version" "qemu-system-common=$version" \
            "qemu-system-data=$version" >/dev/null || return
    for deb in "$root"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$root/x" || return; done
}
fetch old 1:10.0.13+ds-0+deb13u1 trixie trixie-updates || exit 125
fetch new 1:11.1.3+ds-1~bpo13+1 trixie trixie-updates trixie-backports || exit 125

qemu() { # NAME OPTIONS...: reads QMP from its input
    local x="$work/$1/x"
    shift
    "$x/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$x/usr/lib/x86_64-linux-gnu" \
        "$x/usr/bin/qemu-system-ppc64" -L "$x/usr/share/qemu" -L "$x/usr/share/slof" -nodefaults -display none -S -m 256M \
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
    x="$work/$name/x"
    "$x/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$x/usr/lib/x86_64-linux-gnu" \
        "$x/usr/bin/qemu-system-ppc64" --version | head -n 1
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
