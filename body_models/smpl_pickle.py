"""Reads SMPL pickles without running what is in them.

The official files are Python 2 pickles that hold chumpy objects and scipy sparse matrices. Unpickling them the ordinary
way needs chumpy and executes any code that a file asks for. Here a fixed list of names is answered with numpy itself or
with inert records; everything else is refused.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError

SAFE_ADVICE = "Nothing of it was executed. Use the file from https://smpl.is.tue.mpg.de, or use the embedded bodies."


class Record:
    """Stands for an object of a class that is not imported: keeps its state, does nothing."""

    kind = ""

    state: dict[str, Any]

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Record":
        """Accept whatever arguments the pickle gives the class it meant; pickles need not call ``__init__``."""
        record = object.__new__(cls)
        record.state = {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


class ChumpyRecord(Record):
    """An array expression of chumpy: a leaf with its value ``x``, or a view ``base[indices]``."""

    kind = "chumpy"


class SparseRecord(Record):
    """A scipy matrix in compressed columns or rows."""

    kind = "sparse"


def _bytes_of_text(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 writes bytes as latin1 text; no other codec is let through."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


def _new_object(cls: type, *_args: Any) -> Any:
    """``copyreg``'s constructors, for the inert records only."""
    if not (isinstance(cls, type) and issubclass(cls, Record)):
        raise pickle.UnpicklingError(f"an object built from {cls!r}")
    return cls()


def _numpy_scalar(dtype: np.dtype, raw: Any) -> Any:
    """A numpy number; ``raw`` arrives as latin1 text when Python 2 wrote it."""
    if dtype.hasobject:
        raise pickle.UnpicklingError("a numpy object scalar")
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype)[0]


def _numpy_from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    """Protocol 5 writes arrays as one buffer."""
    if dtype.hasobject:
        raise pickle.UnpicklingError("a numpy object array in a buffer")
    flat = np.frombuffer(buffer, dtype)
    return flat.reshape(shape, order="F") if order == "F" else flat.reshape(shape)


_empty_array = np.empty(0).__reduce__()[0]  # numpy's own _reconstruct, wherever this numpy keeps it

_NUMPY_INNER = {
    f"{core}.{name}": value
    for core in ("numpy.core", "numpy._core")
    for name, value in (("multiarray._reconstruct", _empty_array), ("multiarray.scalar", _numpy_scalar),
                        ("numeric._frombuffer", _numpy_from_buffer))
}  # fmt: skip
_ALLOWED: dict[str, Any] = {
    **_NUMPY_INNER,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": _bytes_of_text,
    "builtins.bytes": _empty_bytes,
    "builtins.set": set,
    "builtins.object": object,
    "copyreg._reconstructor": _new_object,
    "copyreg.__newobj__": _new_object,
}
_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_SPARSE_NAMES = ("csc_matrix", "csr_matrix", "csc_array", "csr_array")


def _sparse_class(module: str, name: str) -> type[SparseRecord] | None:
    if module.split(".")[:2] != ["scipy", "sparse"] or name not in _SPARSE_NAMES:
        return None
    # The orientation is in the class name only (old scipy keeps no `format` in the state).
    return type(name, (SparseRecord,), {"kind": name[:3]})


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows numpy arrays, sparse matrices and chumpy leaves, and refuses every other name."""

    def __init__(self, stream: io.BufferedIOBase, source: str | Path) -> None:
        super().__init__(stream, encoding="latin1")
        self._source = source

    def find_class(self, module: str, name: str) -> Any:
        """What stands for ``module.name``.

        Raises:
            InputError: the name is not on the list.
        """
        if module.split(".", maxsplit=1)[0] == "chumpy" and "." not in name:
            return type(name, (ChumpyRecord,), {"__module__": module})
        module = _PYTHON_2_MODULES.get(module, module)
        found = _sparse_class(module, name) or _ALLOWED.get(f"{module}.{name}")
        if found is None:
            raise InputError(
                self._source,
                found=f"a pickle that asks for {module}.{name}",
                expected="arrays, scipy sparse matrices and chumpy arrays only",
                next_step=SAFE_ADVICE,
            )
        return found


def _dense_from_sparse(record: SparseRecord) -> np.ndarray:
    """Columns (or rows) of a compressed matrix laid out in full."""
    state = record.state
    rows, columns = (int(n) for n in _first(state, "_shape", "shape"))
    counts = np.diff(state["indptr"])
    major = np.repeat(np.arange(len(counts)), counts)
    minor = np.asarray(state["indices"])
    dense = np.zeros((rows, columns))
    index = (minor, major) if record.kind == "csc" else (major, minor)
    np.add.at(dense, index, state["data"])
    return dense


def _first(state: dict[str, Any], *names: str) -> Any:
    return next((state[n] for n in names if state.get(n) is not None), None)


def _array_from_chumpy(record: ChumpyRecord) -> np.ndarray:
    """The value of a leaf (``x``), or of a view: elements of the flattened base at ``idxs``, in ``preferred_shape``."""
    state = record.state
    leaf = _first(state, "x")
    if leaf is not None:
        return to_array(leaf)
    base, indices = _first(state, "a", "base"), _first(state, "idxs", "indices")
    if base is None or indices is None:
        held = ", ".join(sorted(map(str, state))) or "nothing"
        raise ValueError(f"a chumpy {type(record).__name__} that is neither a leaf nor a view (it holds {held})")
    picked = to_array(base).ravel()[to_array(indices).astype(np.int64)]
    shape = _first(state, "preferred_shape", "shape")
    return picked if shape is None else picked.reshape(tuple(int(n) for n in shape))


def to_array(value: Any) -> Any:
    """``value`` with records turned into numpy arrays; anything that is no record is returned as it is.

    Raises:
        ValueError, KeyError, TypeError, IndexError: the record does not hold what its class needs.
    """
    if isinstance(value, SparseRecord):
        return _dense_from_sparse(value)
    if isinstance(value, ChumpyRecord):
        return _array_from_chumpy(value)
    return value


def read_pickle(path: str | Path) -> dict[str, Any]:
    """The entries of an SMPL pickle as numpy arrays and plain values.

    Raises:
        InputError: the file asks for a name that is not allowed, is cut off, or is no dictionary.
    """
    content = Path(path).read_bytes()
    try:
        loaded = RestrictedUnpickler(io.BytesIO(content), path).load()
        if not isinstance(loaded, dict):
            raise TypeError(f"a {type(loaded).__name__}")
        return {str(name): to_array(value) for name, value in loaded.items()}
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(
            path,
            found=f"a pickle that cannot be read ({type(error).__name__}: {error}) in {len(content)} bytes",
            expected="a complete SMPL pickle (a dictionary of arrays)",
            next_step="Copy or download the file again from https://smpl.is.tue.mpg.de, or use the embedded bodies.",
        ) from error
