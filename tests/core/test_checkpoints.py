"""Checkpoints: whole or absent, nothing executed, metadata compared."""

import os
import pickle
import resource

import numpy as np
import pytest
import torch

from core.checkpoints import check_metadata, load_weights_only, save_atomically
from core.errors import InputError
from core.files import read_arrays, replacing, write_json_atomically, write_npz_atomically


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    save_atomically({"weights": torch.arange(3.0), "step": 7, "nested": {"names": ["a", "b"]}}, path)
    return path


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 2 kB, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_round_trip(checkpoint):
    """Catches lost or changed content, and temporary files left behind."""
    content = load_weights_only(checkpoint)
    assert content["weights"].tolist() == [0, 1, 2]
    assert (content["step"], content["nested"]) == (7, {"names": ["a", "b"]})
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]


def test_full_disk_keeps_the_old_checkpoint(checkpoint, full_disk):
    """Catches writing in place: a failed save must leave the previous file whole and no rubbish beside it."""
    before = checkpoint.read_bytes()
    with pytest.raises(InputError, match="error while writing"):
        save_atomically({"weights": torch.zeros(100_000)}, checkpoint)
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]


def test_failed_rename_keeps_the_old_file(checkpoint, monkeypatch):
    """Catches an error that comes with fsync, after everything was written."""

    def no_space(_):
        raise OSError(28, "No space left on device")

    before = checkpoint.read_bytes()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space left"):
        save_atomically({"weights": torch.zeros(2)}, checkpoint)
    assert checkpoint.read_bytes() == before


def test_interrupted_block_keeps_the_old_file(tmp_path):
    """Catches a half-written file that takes the old one's place when the writer raises."""
    path = tmp_path / "a.json"
    write_json_atomically(path, {"a": 1})

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_open_readers_keep_the_old_file(checkpoint):
    """Catches content copied over the old file, which another process may be reading: the rename must replace it."""
    before = checkpoint.read_bytes()
    with checkpoint.open("rb") as reader:
        save_atomically({"weights": torch.zeros(2)}, checkpoint)
        assert reader.read() == before
    assert checkpoint.read_bytes() != before


def test_files_get_ordinary_permissions(checkpoint):
    """Catches the private mode of temporary files, which hides results from a group."""
    mask = os.umask(0)
    os.umask(mask)
    assert checkpoint.stat().st_mode & 0o777 == 0o666 & ~mask


def test_missing_checkpoint_lists_what_is_there(checkpoint):
    """Catches a bare FileNotFoundError: the message names the checkpoints nearby."""
    with pytest.raises(InputError, match=r"last\.ckpt"):
        load_weights_only(checkpoint.parent / "epoch=3-step=9.ckpt")
    (checkpoint.parent / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: nothing"):
        load_weights_only(checkpoint.parent / "empty" / "x.ckpt")


class Harmful:
    """Pickles to a call."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def test_code_in_a_checkpoint_is_not_executed(tmp_path, monkeypatch):
    """Catches full unpickling: a file with a call in it is refused, and the call does not happen."""
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Harmful()}, "harmful.ckpt")
    with pytest.raises(InputError, match="would have to execute"):
        load_weights_only("harmful.ckpt")
    assert not (tmp_path / "executed").exists()


def test_truncated_checkpoint(checkpoint):
    """Catches torch's own message for a copy that was cut short."""
    content = checkpoint.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        checkpoint.write_bytes(content[:length])
        with pytest.raises(InputError, match="truncated or foreign"):
            load_weights_only(checkpoint)


def test_foreign_file(tmp_path):
    """Catches a text file or a plain pickle given as a checkpoint."""
    (tmp_path / "a.ckpt").write_text("hello")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps({"a": object()}, protocol=2))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(InputError):
            load_weights_only(tmp_path / name)


METADATA = {"subject": "subject_00", "gender": "male", "canonical_pose": "A_pose", "betas": [0.5, 0.0, -1.0]}


def test_equal_metadata_passes():
    """Catches false alarms: rounding, tensors for lists, the other spelling of a pose, keys that are not asked for."""
    expected = {
        "gender": "male",
        "canonical_pose": "a_pose",
        "betas": torch.tensor([0.50001, 0.0, -1.0]),
        "subject": None,
    }
    check_metadata(METADATA, expected, "x.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gender": "female"}, "gender = male.*gender = female"),
        ({"subject": "subject_01"}, "subject = subject_00"),
        ({"canonical_pose": "star_pose"}, "canonical_pose = A_pose"),
        ({"betas": [0.5, 0.0, -0.9]}, "betas"),
        ({"betas": [0.5, 0.0]}, "betas"),
        ({"height": 128}, "height = not recorded"),
    ],
)
def test_different_metadata_is_named(change, message):
    """Catches a file of another subject, body or rest pose used in silence."""
    with pytest.raises(InputError, match=message):
        check_metadata(METADATA, METADATA | change, "x.ckpt")


def test_all_differences_are_in_one_message():
    """Catches one complaint at a time."""
    with pytest.raises(InputError, match=r"subject.*gender"):
        check_metadata(METADATA, {"subject": "b", "gender": "female"}, "x.ckpt")


def test_arrays_round_trip_and_refuse_objects(tmp_path):
    """Catches pickled objects inside .npz files, which numpy could execute."""
    write_npz_atomically(tmp_path / "a.npz", {"x": torch.arange(4).numpy()})
    assert read_arrays(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2, 3]
    np.savez(tmp_path / "b.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="unreadable"):
        read_arrays(tmp_path / "b.npz")
