# Sourced by the other scripts: .venv in the repository's root, with tcelab in it. Not for running by itself.
#   setup EXTRAS   EXTRAS: what to install beside the runtime, e.g. "[dev]", or nothing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

# Nothing was judged when the set-up fails: 1 would say that something was found.
fail() {
    say "$*"
    exit 125
}

# Debian packages that the host must have: the command that shows whether it is there, then the package.
HOST_NEEDS="
setpriv util-linux
dpkg-deb dpkg
gpgv gpgv
"

install_debian() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing the Debian packages: $*"
        apt-get -qq update &&
            DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null ||
            fail "apt-get failed, see above"
    else
        fail "this host lacks Debian packages; as root: apt-get install $*"
    fi
}

host_packages() {
    local missing="" command package
    while read -r command package; do
        [ -z "$command" ] || command -v "$command" >/dev/null || missing="$missing $package"
    done <<<"$HOST_NEEDS"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
    command -v python3 >/dev/null || missing="$missing python3"
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    # A host that is no Debian may still run with --qemu, --kernel and --initrd: tcelab itself says what it lacks.
    if [ -n "$missing" ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086 - a list of words
        install_debian $missing
    fi
}

setup() {
    local extras="$1" stamp wanted
    host_packages
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "Python 3.11 or newer is needed; python3 is $(python3 -V 2>&1)"
    stamp=".venv/.tcelab$extras"
    wanted="$(cat pyproject.toml scripts/setup.sh | sha256sum) $(python3 -V) $PWD"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        [ "$(.venv/bin/python -V 2>/dev/null)" = "$(python3 -V)" ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || {
            say "making .venv"
            python3 -m venv --clear .venv || fail "no .venv could be made, see above"
        }
        say "installing tcelab$extras into .venv"
        # Without a network pip says the same in 25 lines: the last error is the reason.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras" >.venv/pip.log 2>&1 ||
            fail "pip could not install what tcelab needs: $(grep '^ERROR' .venv/pip.log | tail -n 1), see .venv/pip.log"
        printf '%s' "$wanted" >"$stamp"
    fi
}
