"""The user's settings: what a key means, and that a wrong one is named."""

import pytest

from tcelab import userconfig
from tcelab.errors import UsageError


@pytest.fixture
def write(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def written(text):
        path = tmp_path / "tcelab" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return written


def test_without_a_file_nothing_is_set(write):
    assert userconfig.load() == userconfig.UserConfig()


def test_every_key_is_read(write):
    write('archive = "http://archive.example/debian"\nruns_kept = 7\nruns_size = "20 GB"\ncache_size = "1.5 GiB"\n')
    assert userconfig.load() == userconfig.UserConfig(
        archive="http://archive.example/debian", runs_kept=7, runs_size=20_000_000_000, cache_size=1_610_612_736
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("archives = 1", "unknown field `archives`"),
        ("archive = 1", "field archive: Expected `str | null`, got `int`"),
        ("runs_kept = 0", "field runs_kept: Expected `int` >= 1"),
        ('runs_size = "much"', "`runs_size`: 'much' is no size; write it as 20 GB or 500 MiB"),
        ("cache_size = true", "`cache_size`: True is no size"),
        ("cache_size = -1", "`cache_size`: -1 is no size"),
        ("archive = ", "Invalid value"),
    ],
)
def test_what_is_wrong_is_named_with_the_file_and_the_keys(write, text, said):
    path = write(text)
    with pytest.raises(UsageError) as raised:
        userconfig.load()
    assert said in raised.value.message
    assert str(path) in raised.value.message


@pytest.mark.parametrize(("text", "size"), [(5, 5), ("5", 5), ("2k", 2000), ("2 MiB", 2 << 20), ("1TB", 10**12)])
def test_sizes_are_as_people_write_them(text, size):
    assert userconfig.size(text) == size


@pytest.mark.parametrize(("kind", "default"), [("cache", ".cache"), ("config", ".config"), ("state", ".local/state")])
def test_folders_lie_where_xdg_has_them(monkeypatch, tmp_path, kind, default):
    variable = f"XDG_{kind.upper()}_HOME"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, str(tmp_path / "named"))
    assert userconfig.folder(kind) == tmp_path / "named" / "tcelab"
    for unset in (lambda: monkeypatch.setenv(variable, ""), lambda: monkeypatch.delenv(variable)):
        unset()
        assert userconfig.folder(kind) == tmp_path / "home" / default / "tcelab"


@pytest.mark.parametrize("value", ["here", "./here", "~/here"])
def test_a_relative_folder_is_wrong_usage_and_not_silently_another(monkeypatch, value):
    monkeypatch.setenv("XDG_STATE_HOME", value)
    with pytest.raises(UsageError, match=f"XDG_STATE_HOME: '{value}' is not an absolute path"):
        userconfig.folder("state")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    """As in a container with a number for a user."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(UsageError, match="no home folder, and XDG_CACHE_HOME is not set"):
        userconfig.folder("cache")
