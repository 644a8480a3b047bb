"""Reading body files: official-like pickles, damaged ones and malicious ones."""

import io
import os
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse
import torch

from body_models import load_body
from body_models.export import export_bodies, smpl_entries, write_smpl_pickle
from body_models.smpl_file import EMBEDDED_BODIES, find_file
from body_models.smpl_pickle import read_pickle
from core.errors import InputError


@pytest.fixture(scope="module")
def body():
    return load_body(None, "male")


def small_entries(vertices: int = 30) -> dict:
    """A complete body of few vertices: tests need the format, not a person."""
    generator = np.random.default_rng(0)
    parents = np.array([2**32 - 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])
    weights = generator.random((vertices, 24))
    return {
        "v_template": generator.normal(size=(vertices, 3)),
        "shapedirs": generator.normal(size=(vertices, 3, 300)),
        "posedirs": generator.normal(size=(vertices, 3, 207)),
        "J_regressor": scipy.sparse.csc_matrix(
            generator.random((24, vertices)) * (generator.random((24, vertices)) < 0.3)
        ),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.stack([parents, np.arange(24)]).astype(np.uint32),
        "f": generator.integers(0, vertices, (50, 3)).astype(np.uint32),
        "bs_style": "lbs",
    }


def write_pickle(path, entries, protocol=2):
    path.write_bytes(pickle.dumps(entries, protocol))
    return path


def test_export_reads_back(body, tmp_path):
    """Fails when a key, type or the root's 2^32 - 1 is written otherwise than it is read."""
    path = write_smpl_pickle(body, tmp_path / "SMPL_MALE.pkl")
    again = load_body(path, "male")
    for name, value in vars(body).items():
        found = getattr(again, name)
        torch.testing.assert_close(found, value) if isinstance(value, torch.Tensor) else None
        assert isinstance(value, torch.Tensor) or found == value
    entries = read_pickle(path)
    assert entries["f"].dtype == entries["kintree_table"].dtype == np.uint32
    assert entries["kintree_table"][0, 0] == 2**32 - 1
    assert isinstance(smpl_entries(body)["J_regressor"], scipy.sparse.csc_matrix)
    assert path.read_bytes()[:2] == b"\x80\x02"


def test_all_embedded_bodies_are_exported(tmp_path, monkeypatch):
    """Fails when a gender is left out or written under a name that the published layouts do not know."""
    monkeypatch.setattr("body_models.export.smpl_entries", lambda body: {"gender": body.gender})
    assert [p.name for p in export_bodies(tmp_path)] == ["SMPL_NEUTRAL.pkl", "SMPL_MALE.pkl", "SMPL_FEMALE.pkl"]


def test_embedded_bodies_differ_and_have_joints_inside():
    """Fails when one body is shipped three times, or a regressor column is shifted."""
    bodies = [load_body("embedded", gender) for gender in ("neutral", "male", "female")]
    assert not torch.equal(bodies[0].v_template, bodies[1].v_template)
    for body in bodies:
        joints = body.joint_regressor @ body.v_template
        assert (joints > body.v_template.amin(0)).all()
        assert (joints < body.v_template.amax(0)).all()
        torch.testing.assert_close(joints[16] * joints.new_tensor([-1, 1, 1]), joints[17], atol=5e-3, rtol=0)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("layout", ["csc", "csr", "dense"])
def test_matrix_layouts_and_protocols(tmp_path, protocol, layout):
    """Fails when rows and columns of the joint regressor are swapped, or a pickle protocol is not read."""
    entries = small_entries()
    dense = entries["J_regressor"].toarray()
    entries["J_regressor"] = {"csc": scipy.sparse.csc_matrix, "csr": scipy.sparse.csr_matrix, "dense": np.array}[
        layout
    ](dense)
    body = load_body(write_pickle(tmp_path / "b.pkl", entries, protocol), "neutral")
    np.testing.assert_allclose(body.joint_regressor.numpy(), dense, rtol=1e-6)
    np.testing.assert_allclose(body.shapedirs.numpy(), entries["shapedirs"][..., :10], rtol=1e-6)
    np.testing.assert_allclose(body.posedirs.numpy(), entries["posedirs"], rtol=1e-6)
    assert body.parents.tolist()[:5] == [-1, 0, 0, 0, 1]


@pytest.fixture
def chumpy(monkeypatch):
    """Modules with the class names of chumpy, gone again when the pickle is read."""
    ch, reordering = types.ModuleType("chumpy.ch"), types.ModuleType("chumpy.reordering")
    ch.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    reordering.Select = type("Select", (ch.Ch,), {"__module__": "chumpy.reordering"})
    for name, module in (("chumpy", types.ModuleType("chumpy")), ("chumpy.ch", ch), ("chumpy.reordering", reordering)):
        monkeypatch.setitem(sys.modules, name, module)

    def make(cls, **state):
        made = cls()
        made.__dict__.update(state, _dirty_vars={"x"}, _itr=None)
        return made

    return types.SimpleNamespace(leaf=lambda x: make(ch.Ch, x=x), view=lambda **s: make(reordering.Select, **s))


@pytest.mark.parametrize("protocol", [0, 2])
def test_chumpy_leaves_and_views(tmp_path, chumpy, monkeypatch, protocol):
    """Fails when the value inside a chumpy object, or the elements a view picks, are read wrongly."""
    entries = small_entries()
    template, shapes = entries["v_template"], entries["shapedirs"]
    entries["v_template"] = chumpy.leaf(template)
    picked = np.arange(shapes.size).reshape(shapes.shape)[:, :, :10]
    view = chumpy.view(a=chumpy.leaf(shapes), idxs=picked.ravel(), preferred_shape=picked.shape)
    entries["shapedirs"] = view
    path = write_pickle(tmp_path / "b.pkl", entries, protocol)
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        monkeypatch.delitem(sys.modules, name)
    body = load_body(path, "neutral")
    np.testing.assert_allclose(body.v_template.numpy(), template, rtol=1e-6)
    np.testing.assert_allclose(body.shapedirs.numpy(), shapes[:, :, :10], rtol=1e-6)


def test_python_2_strings_are_read_as_latin1(tmp_path):
    """Fails when array bytes that Python 2 wrote as str are decoded as ASCII or UTF-8."""
    raw = np.array([1.5, -2.0e10, 3.25e-9]).tobytes()
    assert any(byte > 127 for byte in raw)
    stream = (  # what Python 2 writes for {'x': numpy array}: SHORT_BINSTRING instead of bytes
        b"\x80\x02}U\x01xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    path = tmp_path / "python2.pkl"
    path.write_bytes(stream)
    np.testing.assert_array_equal(read_pickle(path)["x"], [1.5, -2.0e10, 3.25e-9])


class Attack:
    """Pickles as a call of whatever it is given."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("echo hacked > {mark}",), r"\.system"),
        (eval, ("open('{mark}', 'w').write('hacked')",), r"builtins\.eval"),
        (getattr, (np.ndarray, "tofile"), r"builtins\.getattr"),
        (np.load, ("{mark}",), "numpy.*load"),
    ],
)
def test_malicious_pickle_is_refused(tmp_path, function, arguments, name):
    """Fails when a pickle can call anything: the error names what it asked for, and nothing has run."""
    mark = tmp_path / "mark"
    call = Attack(function, *(a.format(mark=mark) if isinstance(a, str) else a for a in arguments))
    path = write_pickle(tmp_path / "SMPL_MALE.pkl", {**small_entries(), "v_template": call})
    with pytest.raises(InputError, match=name) as caught:
        load_body(path, "male")
    assert "executed" in str(caught.value)
    assert not mark.exists()


def test_codec_back_door_is_closed(tmp_path):
    """Fails when `_codecs.encode`, needed for array bytes, may run other codecs."""
    import _codecs

    path = write_pickle(tmp_path / "b.pkl", {"x": Attack(_codecs.encode, "hello", "rot13")})
    with pytest.raises(InputError, match="rot13"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"v_template": np.zeros((30, 2))}, r"v_template of shape \[30, 2\]"),
        ({"shapedirs": np.zeros((30, 3, 4))}, r"shapedirs of shape \[30, 3, 4\]"),
        ({"weights": np.zeros((30, 24))}, "do not sum to 1"),
        ({"weights": np.full((30, 52), 1 / 52)}, r"weights of shape \[30, 52\]"),
        ({"posedirs": np.full((30, 3, 207), np.nan)}, "not finite"),
        ({"J_regressor": np.full((24, 30), np.inf)}, "not finite"),
        ({"f": np.array([[0, 1, 30]])}, "names vertex 30 of 30"),
        ({"f": np.zeros((5, 3))}, "float64"),
        ({"kintree_table": np.zeros((2, 52), int)}, "kintree_table"),
        ({"kintree_table": np.zeros((2, 24), int)}, "joint parents"),
        ({"v_template": "text"}, "v_template"),
        ({"weights": None}, "no array|weights"),
        ({"gender": "female"}, "the female body"),
    ],
)
def test_wrong_content_is_one_clear_error(tmp_path, change, says):
    """Fails when a wrong array is found out later, as an index error far from its cause."""
    path = write_pickle(tmp_path / "SMPL_MALE.pkl", {**small_entries(), **change})
    with pytest.raises(InputError, match=says) as caught:
        load_body(path, "male")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("removed", ["v_template", "weights", "J_regressor", "f"])
def test_missing_entry_is_named(tmp_path, removed):
    """Fails when an incomplete file ends as a bare KeyError."""
    entries = small_entries()
    del entries[removed]
    with pytest.raises(InputError, match=removed):
        load_body(write_pickle(tmp_path / "b.pkl", entries), "male")


@pytest.mark.parametrize("keep", [0, 1, 200, 5000])
def test_truncated_files(tmp_path, keep):
    """Fails when an interrupted download is anything but one error that says so."""
    whole = pickle.dumps(small_entries(), 2)
    (tmp_path / "b.pkl").write_bytes(whole[:keep])
    archive = io.BytesIO()
    np.savez(archive, **{k: v for k, v in small_entries().items() if k != "J_regressor"})
    (tmp_path / "b.npz").write_bytes(archive.getvalue()[:keep])
    for name in ("b.pkl", "b.npz"):
        with pytest.raises(InputError, match=r"cannot be read.*embedded bodies"):
            load_body(tmp_path / name, "male")


def test_npz_with_objects_is_refused(tmp_path):
    """Fails when .npz is read with allow_pickle, which would execute code."""
    np.savez(tmp_path / "b.npz", v_template=np.array([Attack(os.system, "true")], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        load_body(tmp_path / "b.npz", "male")


@pytest.mark.parametrize(
    "name", ["SMPL_FEMALE.pkl", "female/model.pkl", "smpl/SMPL_FEMALE.pkl", "smpl/female/model.pkl",
             "basicModel_f_lbs_10_207_0_v1.0.0.pkl"],
)  # fmt: skip
def test_published_layouts_are_found(tmp_path, name):
    """Fails when a folder that users of the published code have is not understood."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pickle(path, small_entries())
    assert find_file(tmp_path, "female") == path
    with pytest.raises(InputError, match="female body"):
        load_body(path, "male")
    with pytest.raises(InputError, match=r"smpl\.is\.tue\.mpg\.de.*embedded"):
        find_file(tmp_path, "male")


def test_missing_folder_and_gender(tmp_path):
    """Fails when a wrong path or a wrong gender is reported without the next step."""
    with pytest.raises(InputError, match=r"no such file.*SMPL_MALE\.pkl.*embedded bodies"):
        load_body(tmp_path / "nowhere", "male")
    with pytest.raises(InputError, match="neutral or male or female"):
        load_body(None, "man")
    assert find_file(None, "male").parent == EMBEDDED_BODIES
