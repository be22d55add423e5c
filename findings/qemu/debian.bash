# shellcheck shell=bash
# The pinned QEMU that a finding is about, from Debian's archive, in a folder that goes when the script ends. To be sourced;
# ends the script with 125 where it cannot be had.
set -u
here="$(dirname "${BASH_SOURCE[0]}")"
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
        -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts="$root/etc" -o Dir::Etc::parts="$root/etc" \
        -o Dir::Etc::preferencesparts="$root/etc" -o APT::Sandbox::User=root -o APT::Install-Recommends=0 \
        -o APT::Architecture=amd64 -o Debug::NoLocking=1 -qq
    apt-get "$@" update &&
        apt-get "$@" --yes --download-only install "qemu-system-ppc=$version" "qemu-system-common=$version" \
            "qemu-system-data=$version" >/dev/null || return
    for deb in "$root"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$root/x" || return; done
}

emulator() { # NAME: the command that starts it, in the array `emulator`
    local lib="$work/$1/x/usr/lib/x86_64-linux-gnu"
    emulator=("$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$work/$1/x/usr/bin/qemu-system-ppc64")
    emulator+=(-L "$work/$1/x/usr/share/qemu")
}

try_11_1() { # EXPECTED: runs the program on its input, written with pseries.py; succeeds if that prints this, and nothing else
    local told
    fetch new 1:11.1.3+ds-1~bpo13+1 trixie trixie-updates trixie-backports || exit 125
    emulator new
    "${emulator[@]}" --version | head -n 1
    told="$(PYTHONPATH="$here" PYTHONDONTWRITEBYTECODE=1 timeout 300 python3 - "$work" "${emulator[@]}")" || exit 125
    echo "$told"
    [ "$told" = "$1" ]
}
