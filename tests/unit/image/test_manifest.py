"""What an image's manifest says of its files."""

from types import SimpleNamespace

import pytest

from tcelab.image.manifest import full_problems, record_files, tree_sha256


@pytest.fixture
def built(tmp_path):
    """A folder with a link, and its manifest."""
    (tmp_path / "as").write_text("#!")
    (tmp_path / "ld").write_text("#!")
    (tmp_path / "as-here").symlink_to("as")
    files = record_files(tmp_path)
    return tmp_path, SimpleNamespace(files=files, tree_sha256=tree_sha256(files))


def test_a_link_is_as_it_was_built_while_it_leads_there(built):
    folder, manifest = built
    assert full_problems(folder, manifest) == []
    (folder / "as-here").unlink()
    (folder / "as-here").symlink_to("ld")
    assert full_problems(folder, manifest) == ["as-here: content differs from what was built"]


def test_a_file_in_the_place_of_a_link_is_not_what_was_built_nor_the_other_way_round(built):
    folder, manifest = built
    (folder / "as-here").unlink()
    (folder / "as-here").write_text("as")
    (folder / "as").unlink()
    (folder / "as").symlink_to("ld")
    assert full_problems(folder, manifest) == [
        f"{name}: content differs from what was built" for name in ("as", "as-here")
    ]
