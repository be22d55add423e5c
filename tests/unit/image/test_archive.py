"""Which archive packages come from: asked of apt itself, on lists of made-up hosts."""

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tcelab.cli.options import machine_options
from tcelab.errors import Unsupported, UsageError
from tcelab.image import apt, archive
from tcelab.image.archive import KEYRING, Archive
from tcelab.run import exitcode

ROOT = Path(__file__).parents[3]

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="asks the host's apt-get")

ONE_LINE = """\
# deb http://comment.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [arch=amd64] http://archive.example/debian/ bookworm main contrib
deb http://security.example/debian-security bookworm-security main
"""
DEB822 = """\
Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

# the real one
Types: deb deb-src
URIs: http://archive.example/debian http://second.example/debian
Suites: trixie trixie-updates
Components: main non-free
Signed-By: {key}

Types: deb
URIs: http://archive.example/security
Suites: trixie-security
Components: main
"""
EMBEDDED = """\
Types: deb
URIs: http://tool.example/tool
Suites: stable-tool
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEYCQjIxYJKwYBBAHaRw8BAQdAD/P5Nvvnvk66SxBBHDbhRml9ORg1WV5CvzKY
 -----END PGP PUBLIC KEY BLOCK-----
"""
FOREIGN = """\
deb http://packages.example/tool stable-tool main
deb http://other.example/ubuntu noble main
deb http://flat.example/x ./
"""


@pytest.fixture
def host(monkeypatch, tmp_path):
    """Gives this process an apt with lists of its own; `write(name, text)` in its folder."""
    (tmp_path / "lists/partial").mkdir(parents=True)
    (tmp_path / "parts").mkdir()
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{tmp_path}/sources.list";\n'
        f'Dir::Etc::SourceParts "{tmp_path}/parts";\n'
        f'Dir::State::Lists "{tmp_path}/lists";\n'
        'APT::Architecture "amd64";\nAPT::Architectures { "amd64"; };\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))

    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_what_the_user_names_goes_before_the_host_and_the_variable_before_the_settings(host, monkeypatch, tmp_path):
    host("sources.list", ONE_LINE)
    settings = tmp_path / "config/tcelab/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('archive = "http://mine.example/debian"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    expected = Archive("http://mine.example/debian", "http://mine.example/debian-security", (KEYRING,), str(settings))
    assert archive.find() == expected
    monkeypatch.setenv("TCELAB_ARCHIVE", "https://now.example/d/")
    assert archive.find() == Archive("https://now.example/d", "", (KEYRING,), "TCELAB_ARCHIVE")


def test_a_second_url_is_that_of_the_security_updates(monkeypatch):
    monkeypatch.setenv("TCELAB_ARCHIVE", "http://archive.example/debian file:/srv/security/")
    assert archive.find().security == "file:/srv/security"


@pytest.mark.parametrize("text", ["archive.example", "/srv/debian", "http://a/ http://b/ http://c/", "http://a]b/"])
def test_what_is_no_url_is_wrong_usage(monkeypatch, text):
    monkeypatch.setenv("TCELAB_ARCHIVE", text)
    with pytest.raises(UsageError, match=r"TCELAB_ARCHIVE: .* is no URL of an archive") as caught:
        archive.find()
    assert "dists/" in caught.value.next_step


def test_an_option_of_the_command_line_goes_before_all(monkeypatch):
    monkeypatch.setenv("TCELAB_ARCHIVE", "http://variable.example/debian")
    found = []

    @click.command()
    @machine_options
    def verb(**_):
        found.append(archive.find().main)

    for words in (["--archive", "http://option.example/debian"], []):
        monkeypatch.setenv("TCELAB_ARCHIVE", "http://variable.example/debian")
        assert CliRunner().invoke(verb, words, catch_exceptions=False).exit_code == 0
    assert found == ["http://option.example/debian", "http://variable.example/debian"]


@needs_apt
def test_lists_of_one_line_are_understood(host):
    host("sources.list", ONE_LINE)
    found = archive.find()
    assert found == Archive(
        "http://archive.example/debian", "http://security.example/debian-security", (KEYRING,), "this host's apt"
    )


@needs_apt
@pytest.mark.parametrize("before", ["", "\n# a comment\n\n", f"{EMBEDDED}\n"], ids=["none", "comment", "embedded key"])
def test_lists_of_stanzas_are_understood_with_the_key_that_they_ask_for(host, before):
    key = host("mirror.gpg", "")
    host("parts/debian.sources", before + DEB822.format(key=key))
    found = archive.find()
    assert found[:2] == ("http://archive.example/debian", "http://archive.example/security")
    assert found.keyrings == (KEYRING, key)


@needs_apt
def test_a_key_of_a_line_is_taken_as_well_and_what_is_no_file_is_not(host):
    key = host("mirror.asc", "")
    line = f"deb [signed-by={key},/none.gpg] http://archive.example/debian bookworm main\n"
    host("sources.list", "# a comment\n\n" + line)
    assert archive.find().keyrings == (KEYRING, key)


@needs_apt
def test_what_is_surely_debians_goes_before_others_that_use_its_names(host):
    third = "deb http://third.example/tool bookworm main\n"
    host("sources.list", f"{third}deb [signed-by={KEYRING}] http://archive.example/x bookworm main\n")
    expected = "http://archive.example/x" if KEYRING.is_file() else "http://third.example/tool"
    assert archive.find().main == expected
    host("sources.list", third + ONE_LINE)
    assert archive.find().main == "http://archive.example/debian"


@needs_apt
def test_an_index_that_says_whose_it_is_is_believed(host, tmp_path):
    host("sources.list", "deb http://third.example/debian bookworm main\n" + ONE_LINE.replace("/debian/", "/deb/"))
    for name, origin in (("third.example_debian", "Other"), ("archive.example_deb", "Debian")):
        stem = f"lists/{name}_dists_bookworm"
        host(f"{stem}_InRelease", f"Origin: {origin}\nSuite: stable\nCodename: bookworm\nSHA256:\n")
        host(f"{stem}_main_binary-amd64_Packages", "Package: x\nVersion: 1\nArchitecture: amd64\n")
    assert archive.find().main == "http://archive.example/deb"


@needs_apt
@pytest.mark.parametrize("text", [FOREIGN, ""], ids=["others", "nothing"])
def test_a_host_whose_apt_is_not_debians_is_told_what_to_give(host, text):
    host("sources.list", text)
    with pytest.raises(Unsupported, match="this host's apt has no archive of Debian") as caught:
        archive.find()
    assert "\n" not in caught.value.message
    assert ("noble of http://other.example/ubuntu" if text else "it has: nothing") in caught.value.message
    assert all(way in caught.value.next_step for way in ("--archive URL", "TCELAB_ARCHIVE=URL", "config.toml"))


@needs_apt
def test_lists_that_apt_cannot_read_are_told_in_its_words(host):
    host("sources.list", "deb [nonsense http://a b\n")
    with pytest.raises(Unsupported, match="does not tell its archives: E: The list of sources could not be read"):
        archive.find()


# What becomes of it


def sources(root):
    return (root._folder / "sources.list").read_text().splitlines()


SUITES = (("bookworm", "bookworm-updates", "bookworm-security"), ("bookworm-backports",))
REQUEST = apt.FetchRequest(architecture="ppc64el", suites=SUITES, packages=())


def test_each_suite_is_asked_of_its_archive(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path))
    one, two = Path("/keys/one.gpg"), Path("/keys/two.gpg")
    root = apt._Root(REQUEST, Archive("http://archive.example/d", "http://security.example/s", (one, two), "a test"))
    options = "[arch=ppc64el signed-by=/keys/one.gpg,/keys/two.gpg target=Packages]"
    assert sources(root) == [
        f"deb {options} http://archive.example/d bookworm main",
        f"deb {options} http://archive.example/d bookworm-updates main",
        f"deb {options} http://security.example/s bookworm-security main",
        f"deb {options} http://archive.example/d bookworm-backports main",
    ]


def test_without_an_archive_of_security_updates_their_suites_are_left_out_and_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path))
    root = apt._Root(REQUEST, Archive("http://archive.example/d", "", (KEYRING,), "TCELAB_ARCHIVE"))
    assert [line.split()[-2] for line in sources(root)] == ["bookworm", "bookworm-updates", "bookworm-backports"]
    monkeypatch.setattr(root, "_run", lambda *_, **__: "")
    reason = "no archive of security updates is known by TCELAB_ARCHIVE"
    assert root.update() == {"bookworm-security": reason}


@needs_apt
def test_a_command_that_needs_packages_and_has_no_archive_could_not_judge(host, tmp_path, monkeypatch):
    monkeypatch.setattr("tcelab.image.apt.require_tools", lambda: None)
    host("sources.list", FOREIGN)
    with pytest.raises(Unsupported) as caught:
        apt.fetch(REQUEST)
    assert exitcode.of_error(caught.value) == 125


def test_no_file_of_ours_names_a_host_of_packages():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a repository")
    hosts = ("debian" + ".org", "ubuntu" + ".com", "pypi" + ".org")
    naming = [
        name
        for name in listed.stdout.splitlines()
        if any(host in (ROOT / name).read_bytes().decode(errors="replace") for host in hosts)
    ]
    assert naming == []
