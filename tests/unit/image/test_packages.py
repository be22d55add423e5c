"""Which version of which suite is taken, without apt."""

import itertools
import random
import shutil
import subprocess

import pytest

from tcelab.errors import HarnessError
from tcelab.image import apt
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

# Oldest first, by the rules of Debian Policy 5.6.12.
ORDERED = [
    "0.9-9", "1.0~~", "1.0~rc1-1", "1.0~rc1-1+b1", "1.0~rc2", "1.0", "1.0-1~bpo12+1", "1.0-1", "1.0-1+b1",
    "1.0-1+deb12u9", "1.0-1+deb12u10", "1.0-1.1", "1.0-2", "1.0a-1", "1.0+dfsg-1", "1.0.1", "1.2", "1.10",
    "6.12.95-1~bpo12+1", "6.12.100-1~bpo12+1", "1:0.1", "2:0.1",
]  # fmt: skip


def package(name, version, suite):
    return Package(name, version, "ppc64el", suite, "0" * 64, 1)


def test_what_apt_chose_is_the_package_of_that_name_and_version():
    available = [package("a", "1", "stable"), package("b", "1", "stable"), package("a", "2", "stable")]
    assert apt._exactly("a", "2", available) is available[2]
    assert apt._exactly("b", "1", available) is available[1]
    with pytest.raises(HarnessError, match="apt chose b 2, which no index describes"):
        apt._exactly("b", "2", available)


def test_the_newest_is_what_dpkg_takes_for_newest():
    for count in range(1, len(ORDERED) + 1):
        shuffled = ORDERED[:count]
        random.Random(count).shuffle(shuffled)
        available = [package("a", version, "stable") for version in shuffled]
        assert choose("a", available, [["stable"]]).version == ORDERED[count - 1]


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="compares with dpkg")
def test_dpkg_agrees_with_the_order():
    for older, newer in itertools.pairwise(ORDERED):
        subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=True)


def test_the_newest_version_within_a_group_of_suites_wins():
    available = [package("a", "1.0-1", "stable"), package("a", "1.0-1+deb12u1", "stable-security")]
    assert choose("a", available, [["stable", "stable-security"]]).suite == "stable-security"
    assert choose("a", available, [["stable-security", "stable"]]).suite == "stable-security"


def test_a_later_group_is_asked_only_for_what_the_earlier_ones_lack():
    available = [package("a", "1", "stable"), package("a", "2", "backports"), package("b", "2", "backports")]
    suites = [["stable"], ["backports"]]
    assert choose("a", available, suites).version == "1"
    assert choose("b", available, suites).version == "2"


def test_suites_that_do_not_verify_are_left_out_with_the_reason():
    sorted_suites = sort_suites(
        [["stable", "security"], ["backports"], ["silent"]],
        {"stable", "backports"},
        {"security": "File has unexpected size", "backports": "Temporary failure resolving"},
    )
    assert sorted_suites.usable == (("stable",), ("backports",), ())
    assert sorted_suites.left_out == (
        SuiteNote("security", "File has unexpected size"),
        SuiteNote("silent", "apt gave no reason"),
    )
    assert sorted_suites.not_refreshed == (SuiteNote("backports", "Temporary failure resolving"),)


def test_what_a_left_out_suite_had_comes_from_the_next_group():
    usable = sort_suites([["security"], ["stable"]], {"stable"}, {}).usable
    assert choose("a", [package("a", "1", "stable")], usable).version == "1"


def test_of_one_version_in_two_suites_the_first_is_recorded():
    available = [package("a", "1", "updates"), package("a", "1", "stable")]
    assert choose("a", available, [["stable", "updates"]]).suite == "stable"


def test_a_missing_package_is_named_with_the_suites_that_were_asked():
    with pytest.raises(HarnessError, match=r"'nothing'.*\(stable, updates\)"):
        choose("nothing", [package("a", "1", "stable")], [["stable", "updates"]])


def test_the_kernel_pattern_takes_the_newest_plain_flavour():
    names = [
        "6.12.100+deb12-powerpc64le-64k",
        "6.12.100+deb12-powerpc64le-dbg",
        "6.12.95+deb12-powerpc64le",
        "6.12.100+deb12-powerpc64le",
        "6.1.0-50-powerpc64le",
    ]
    available = [package(f"linux-image-{name}", name.split("+")[0], "backports") for name in names]
    chosen = choose("linux-image-6.12.*-powerpc64le", available, [["backports"]])
    assert chosen.name == "linux-image-6.12.100+deb12-powerpc64le"


INDEX = b"""\
Package: libc6
Source: glibc
Version: 2.36-9
Architecture: ppc64el
Description: the library
 Package: not a field
Size: 2690296
SHA256: 00ff

Package: libc6-dev
Version: 2.36-9
Architecture: ppc64el
Size: 1
SHA256: 11

Package: libc6xdev
Version: 1
Architecture: all
Size: 2
SHA256: 22
"""


def test_an_index_gives_what_the_patterns_name():
    assert parse_index(INDEX, "stable", ["libc6"]) == [Package("libc6", "2.36-9", "ppc64el", "stable", "00ff", 2690296)]
    assert [p.name for p in parse_index(INDEX, "stable", ["libc6-*", "none"])] == ["libc6-dev"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"SHA256: 00ff\n", b"", "describes libc6 wrongly: 'SHA256'"),
        (b"2690296", b"much", "describes libc6 wrongly: invalid literal"),
        (
            b"Version: 2.36-9\nArchitecture: ppc64el\nDesc",
            b"Version: new one\nArchitecture: ppc64el\nDesc",
            "Invalid version",
        ),
    ],
)
def test_a_package_that_is_described_wrongly_is_one_clear_error(old, new, said):
    assert old in INDEX
    with pytest.raises(HarnessError, match=said) as caught:
        parse_index(INDEX.replace(old, new), "stable", ["libc6"])
    assert "\n" not in caught.value.message


UPDATE = """\
Get:1 http://archive.example/debian bookworm InRelease [151 kB]
Get:9 http://archive.example/debian bookworm/main ppc64el Packages [8627 kB]
Ign:12 http://archive.example/debian trixie/main ppc64el Packages
Err:12 http://archive.example/debian trixie/main ppc64el Packages
  File has unexpected size (9515196 != 9516256). Mirror sync in progress? [IP: 192.0.2.1 80]
  Hashes of expected file:
Err:3 http://archive.example/debian-security trixie-security InRelease
  Temporary failure resolving 'archive.example'
Fetched 9518 kB in 3s (3482 kB/s)
E: The repository 'http://archive.example/debian sid InRelease' is not signed.
E: Some index files failed to download. They have been ignored, or old ones used instead.
"""


def test_a_failed_update_names_each_suite_and_why():
    assert parse_update_failures(UPDATE) == {
        "trixie": "File has unexpected size (9515196 != 9516256). Mirror sync in progress? [IP: 192.0.2.1 80]",
        "trixie-security": "Temporary failure resolving 'archive.example'",
        "sid": "is not signed.",
    }


def test_apt_is_given_the_same_preference():
    assert preferences([["trixie-backports"], ["trixie", "trixie-updates"]]) == (
        "Package: *\nPin: release n=trixie-backports\nPin-Priority: 990\n\n"
        "Package: *\nPin: release n=trixie\nPin-Priority: 989\n\n"
        "Package: *\nPin: release n=trixie-updates\nPin-Priority: 989\n"
    )


def test_a_simulated_installation_gives_names_and_versions():
    output = (
        "Inst gcc-14-base (14.2.0-19 Debian:13.8/stable [amd64])\n"
        "Conf gcc-14-base (14.2.0-19 Debian:13.8/stable [amd64])\n"
        "Inst libc6 (2.41-12+deb13u5 Debian:13.8/stable, Debian-Security:13/stable-security [amd64]) []\n"
        "Inst libasound2-data:all (1.2.16 Debian Backports:stable-backports [all])\n"
    )
    assert parse_simulation(output) == [
        ("gcc-14-base", "14.2.0-19"),
        ("libc6", "2.41-12+deb13u5"),
        ("libasound2-data", "1.2.16"),
    ]
