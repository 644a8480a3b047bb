"""Reading of foreign pickles without executing them."""

import collections
import gzip
import pickle
import subprocess

import numpy as np
import pytest

from core.errors import InputError
from data.preprocess.plain_pickle import read_plain_npz, read_plain_pickle
from tests.data.preprocess.joblib_writer import joblib_bytes

CONTENT = {
    "frame": {
        "smpl": [{"betas": np.linspace(0, 1, 10, dtype=np.float32), "rotation": np.eye(3)}],
        "tid": [np.int64(3)],
    },
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "name": "a.jpg",
    "empty": np.zeros((0, 3)),
    "scalar": np.array(2.5),
}


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)


@pytest.mark.parametrize("compress", [False, True])
def test_joblib_files(tmp_path, compress):
    """Fails when the bytes between joblib's instructions, their padding, order or compression are misread."""
    (tmp_path / "a.pkl").write_bytes(joblib_bytes(CONTENT, compress))
    assert same(read_plain_pickle(tmp_path / "a.pkl"), CONTENT)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles(tmp_path, protocol):
    """Fails when a protocol or a compressed pickle is not understood."""
    (tmp_path / "a.pkl").write_bytes(gzip.compress(pickle.dumps(CONTENT, protocol)))
    assert same(read_plain_pickle(tmp_path / "a.pkl"), CONTENT)


def test_dictionaries_with_order_or_default(tmp_path):
    """Fails when WHAM's nested default dictionaries are refused."""
    content = collections.defaultdict(dict, {0: collections.OrderedDict(pose=np.ones(3))})
    (tmp_path / "a.pkl").write_bytes(joblib_bytes(content))
    assert same(read_plain_pickle(tmp_path / "a.pkl"), {0: {"pose": np.ones(3)}})


def test_object_arrays(tmp_path):
    """Fails when ROMP's ``results`` (a dictionary in an object array) is not read."""
    np.savez(tmp_path / "a.npz", results=CONTENT, plain=np.arange(3))
    read = read_plain_npz(tmp_path / "a.npz")
    assert same(read["results"].item(), CONTENT)
    np.testing.assert_array_equal(read["plain"], np.arange(3))


class Touch:
    """A pickle that runs a program."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return subprocess.call, (["touch", str(self.path)],)


@pytest.mark.parametrize("kind", ["pickle", "joblib", "npz"])
def test_code_is_refused(tmp_path, kind):
    """Fails when a file can name a function to call."""
    bomb = {"a": Touch(tmp_path / "owned")}
    path = tmp_path / ("a.npz" if kind == "npz" else "a.pkl")
    if kind == "npz":
        np.savez(path, results=bomb)
    else:
        path.write_bytes(pickle.dumps(bomb) if kind == "pickle" else joblib_bytes(bomb))
    with pytest.raises(InputError, match=r"subprocess\.call"):
        (read_plain_npz if kind == "npz" else read_plain_pickle)(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("keep", [0, 3, 200])
@pytest.mark.parametrize("compress", [False, True])
def test_damaged_files_are_named(tmp_path, keep, compress):
    """Fails when a cut file raises anything but the message with its name."""
    path = tmp_path / "a.pkl"
    path.write_bytes(joblib_bytes(CONTENT, compress)[:keep])
    with pytest.raises(InputError, match=r"a\.pkl: found an unreadable file"):
        read_plain_pickle(path)
