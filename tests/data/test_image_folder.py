"""Folders of numbered files."""

from data.image_folder import numbered_files


def test_unfinished_files_are_ignored(tmp_path):
    """Fails when the temporary file of an interrupted writer becomes a frame, or replaces one of the same number."""
    for name in ("image_0001.png", ".image_0001-x7.png", ".image_0002-9.png", "notes.txt"):
        (tmp_path / name).touch()
    assert numbered_files(tmp_path) == {1: tmp_path / "image_0001.png"}
