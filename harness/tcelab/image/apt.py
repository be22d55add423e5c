"""Fetching packages with apt in a private root: nothing of the host's package state is read or changed.

apt checks the signatures of the indices; every package is then checked here against the signed index again. The host's
apt configuration applies (a proxy, for example), but its hooks do not run.
"""

from __future__ import annotations

import logging
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tcelab.errors import HarnessError, Unsupported
from tcelab.image import archive
from tcelab.image.archive import KEYRING, VARIABLE, Archive
from tcelab.image.hosttools import RunLimit, run
from tcelab.image.locks import lock
from tcelab.image.manifest import file_sha256
from tcelab.image.packages import (
    Package,
    SuiteNote,
    choose,
    parse_index,
    parse_simulation,
    parse_update_failures,
    preferences,
    sort_suites,
)
from tcelab.image.store import cache_dir, folder_size, remove
from tcelab.logs import NOTE

__all__ = ["Fetch", "FetchRequest", "Fetched", "fetch", "host_architecture", "unpack"]

_LOG: Final = logging.getLogger(__name__)

STALL_LIMIT = 120.0
"""Seconds in which apt must say something or fetch a byte."""

UNPACK_LIMIT = 120.0
"""Seconds in which one package must be unpacked."""

_HELPER = Path("/usr/lib/apt/apt-helper")
_OWN_FILES = "give --qemu, --kernel and --initrd, or install apt and dpkg"

# A hook would run a host's program for packages that are none of the host's business.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
#clear APT::Architectures;
#clear APT::Default-Release;
#clear Dir::Cache::archives;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root"; // the cache is private to this user, and apt's own user could not write there
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
APT::Get::List-Cleanup "false"; // recipes share the lists of their suites
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::SourceList "{root}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "{root}/preferences";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{root}/state";
Dir::State::Lists "{root}/lists";
Dir::State::Status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::archives "{root}/cache/archives";
Dir::Log "{root}/log";
"""


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to fetch.

    :ivar suites: groups in order of preference, see :mod:`tcelab.image.packages`.
    :ivar packages: names or patterns.
    :ivar closure: also all that these packages depend on.
    """

    architecture: str
    suites: tuple[tuple[str, ...], ...]
    packages: tuple[str, ...]
    closure: bool = False


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched: ``files[i]`` holds ``packages[i]``."""

    packages: tuple[Package, ...]
    files: tuple[Path, ...]
    left_out: tuple[SuiteNote, ...] = ()
    not_refreshed: tuple[SuiteNote, ...] = ()


class Fetch(Protocol):
    """How a builder gets packages; tests give their own."""

    def __call__(self, request: FetchRequest) -> Fetched: ...


def host_architecture() -> str:
    """Debian's name of this host's architecture.

    :raise Unsupported: Debian builds no QEMU packages that run here, as far as tcelab knows.
    """
    machine = platform.machine()
    known = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}
    if machine not in known:
        raise Unsupported(f"no packages are known for a {machine} host", next_step=_OWN_FILES)
    return known[machine]


def require_tools() -> None:
    """Check that this host can build images.

    :raise Unsupported: apt-get, dpkg-deb or the archive's keyring is missing.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unsupported(
                f"this host has no {tool}, which is needed to build images: use --qemu, --kernel and --initrd",
                next_step=_OWN_FILES,
            )
    if not KEYRING.is_file():
        raise Unsupported(
            f"{KEYRING} is missing, so no package could be trusted: use --qemu, --kernel and --initrd",
            next_step="install the package debian-archive-keyring",
        )


def fetch(request: FetchRequest) -> Fetched:
    """Fetch packages into the cache and check each against the signed index.

    :raise Unsupported: the host has no apt, or its apt has no archive of Debian and nobody named one.
    :raise UsageError: the archive that was named is none.
    :raise HarnessError: a package is missing, the network failed, a check failed.
    """
    require_tools()
    source = archive.find()
    with lock("packages", "another download of packages"):
        root = _Root(request, source)
        names = ", ".join(suite for group in request.suites for suite in group)
        _LOG.info(
            "reading the %s indices of %s from %s (by %s)",
            *(request.architecture, names, source.main, source.source),
            extra=NOTE,
        )
        failures = root.update()
        indices = root.indices()
        if not indices:
            raise HarnessError(
                f"no package index of {source.main} could be fetched: {'; '.join(dict.fromkeys(failures.values()))}",
                next_step="check the network, and the proxy in apt's configuration (apt-config dump Acquire);"
                f" or name another archive: --archive URL, or {VARIABLE}=URL",
            )
        suites = sort_suites(request.suites, indices, failures)
        for note in suites.left_out:
            _LOG.warning("left out %s (%s): %s", note.suite, request.architecture, note.reason, extra=NOTE)
        for note in suites.not_refreshed:
            _LOG.warning(
                "using an older index of %s (%s): %s", note.suite, request.architecture, note.reason, extra=NOTE
            )
        packages = root.resolve(indices, suites.usable)
        files = root.download(packages)
    return Fetched(packages=packages, files=files, left_out=suites.left_out, not_refreshed=suites.not_refreshed)


def unpack(fetched: Fetched, folder: Path) -> None:
    """Unpack packages into one tree. None of their scripts runs.

    :raise HarnessError: a package could not be unpacked.
    """
    _LOG.info("unpacking %d packages", len(fetched.files), extra=NOTE)
    folder.mkdir(parents=True, exist_ok=True)
    for package, file in zip(fetched.packages, fetched.files, strict=True):
        run(["dpkg-deb", "-x", file, folder], RunLimit(f"unpacking {package.name}", UNPACK_LIMIT))


class _Root:
    """One private apt root, written anew for each request; only the lists persist."""

    def __init__(self, request: FetchRequest, source: Archive) -> None:
        self._request = request
        self._source = source
        self._folder = cache_dir() / "apt" / request.architecture
        self._debs = cache_dir() / "apt" / "debs"
        self._incoming = self._folder / "incoming"
        remove(self._incoming)
        for name in ("state", "lists/partial", "cache/archives/partial", "log", "incoming"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._debs.mkdir(exist_ok=True)
        self._write_configuration()

    def _write_configuration(self) -> None:
        request, source = self._request, self._source
        lines = []
        for suite in (suite for group in request.suites for suite in group):
            url = source.security if archive.is_security(suite) else source.main
            # Only "Packages": the host's configuration may ask for file lists, icons and the like.
            keys = ",".join(map(str, source.keyrings))
            options = f"arch={request.architecture} signed-by={keys} target=Packages"
            lines += [f"deb [{options}] {url} {suite} main\n"] if url else []
        (self._folder / "sources.list").write_text("".join(lines))
        (self._folder / "preferences").write_text(preferences(request.suites))
        (self._folder / "status").write_text("")
        text = _CONFIGURATION.format(architecture=request.architecture, root=self._folder)
        (self._folder / "apt.conf").write_text(text)

    def _run(self, phase: str, *argv: str | Path, accepted: Sequence[int] = (0,), into: Path | None = None) -> str:
        limit = RunLimit(phase, STALL_LIMIT, lambda: folder_size(self._folder))
        tool, *rest = argv
        return run(
            [tool, "-c", self._folder / "apt.conf", *rest],
            limit,
            folder=self._incoming,
            accepted=accepted,
            into=into,
        )

    def update(self) -> dict[str, str]:
        """Refresh the indices; returns suites that failed with the reason."""
        # 100: some index failed. apt's list afterwards shows which ones are usable.
        output = self._run("reading package indices", "apt-get", "-q", "update", accepted=(0, 100))
        unknown = [] if self._source.security else [s for group in self._request.suites for s in group]
        why = f"no archive of security updates is known by {self._source.source}"
        return {suite: why for suite in unknown if archive.is_security(suite)} | parse_update_failures(output)

    def indices(self) -> dict[str, Path]:
        """The verified indices at hand, by suite. apt keeps none that did not verify."""
        output = self._run(
            "reading package indices",
            "apt-get", "indextargets", "--format", "INDEX $(RELEASE) $(FILENAME)", "Created-By: Packages",
        )  # fmt: skip
        return {suite: Path(name) for suite, name in re.findall(r"^INDEX (\S+) (.+)$", output, re.MULTILINE)}

    def resolve(self, indices: dict[str, Path], suites: tuple[tuple[str, ...], ...]) -> tuple[Package, ...]:
        """The packages to fetch, sorted by name."""
        request = self._request
        order = [suite for group in suites for suite in group]
        contents = {suite: self._read_index(indices[suite]) for suite in order}

        def available(patterns: Sequence[str]) -> list[Package]:
            return [package for suite in order for package in parse_index(contents[suite], suite, patterns)]

        of_names = available(request.packages)
        roots = [choose(pattern, of_names, suites) for pattern in request.packages]
        if not request.closure:
            return tuple(sorted(roots))
        output = self._run(
            "resolving dependencies",
            "apt-get", "-q", "-y", "--simulate", "install", *(f"{p.name}={p.version}" for p in roots),
        )  # fmt: skip
        exact = parse_simulation(output)
        every = available([name for name, _ in exact])
        return tuple(sorted(_exactly(name, version, every) for name, version in exact))

    def _read_index(self, index: Path) -> bytes:
        # apt knows how its own lists are compressed.
        if index.suffix not in {".lz4", ".gz", ".xz", ".zst", ".bz2", ".lzma"}:
            return index.read_bytes()
        plain = self._incoming / "index"
        try:
            self._run("reading package indices", _HELPER, "cat-file", index, into=plain)
            return plain.read_bytes()
        finally:
            plain.unlink(missing_ok=True)

    def download(self, packages: Sequence[Package]) -> tuple[Path, ...]:
        """Fetch what the cache lacks; returns one checked file per package."""
        files = [self._debs / f"{package.sha256}.deb" for package in packages]
        checked = {package: file for package, file in zip(packages, files, strict=True) if _is(file, package)}
        missing = [package for package in packages if package not in checked]
        if missing:
            megabytes = sum(package.size for package in missing) / 1e6
            _LOG.info("downloading %d packages (%.0f MB)", len(missing), megabytes, extra=NOTE)
            exact = [f"{package.name}={package.version}" for package in missing]
            self._run("downloading packages", "apt-get", "-q", "download", *exact)
            self._take_in(missing)
        return tuple(files)

    def _take_in(self, packages: Sequence[Package]) -> None:
        fetched = {file_sha256(file): file for file in self._incoming.glob("*.deb")}
        for package in packages:
            if package.sha256 not in fetched:
                raise HarnessError(
                    f"{package.name} {package.version} as fetched is not what the signed index describes",
                    next_step="try again; if it stays so, the mirror or a proxy alters packages",
                )
            fetched[package.sha256].rename(self._debs / f"{package.sha256}.deb")


def _exactly(name: str, version: str, available: Sequence[Package]) -> Package:
    for package in available:
        if (package.name, package.version) == (name, version):
            return package
    raise HarnessError(f"apt chose {name} {version}, which no index describes", next_step="try again")


def _is(file: Path, package: Package) -> bool:
    return file.is_file() and file.stat().st_size == package.size and file_sha256(file) == package.sha256
