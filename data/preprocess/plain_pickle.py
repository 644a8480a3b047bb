"""Reads what motion databases and pose estimators pickle, without executing any of it.

Dictionaries, lists, numbers, text and numpy arrays come back; whatever else a file asks for is refused. Three
containers are known: pickles (also compressed), joblib's pickles, in whose stream the arrays' bytes follow their
descriptions, and object arrays in .npz files.
"""

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from body_models.smpl_pickle import Record, RestrictedUnpickler
from core.errors import InputError
from core.files import missing

_NEXT_STEP = "Nothing of it was executed. Load it where it was made, and save the arrays with numpy.savez."
_COMPRESSIONS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
    b"]\x00": lzma.decompress,
    b"x": zlib.decompress,
}


def read_plain_pickle(path: str | Path) -> Any:
    """The content of a pickle or a joblib file.

    Raises:
        InputError: missing, damaged, or holding anything but plain values and arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "Give the estimator's output file.")
    content = path.read_bytes()
    try:
        for magic, decompress in _COMPRESSIONS.items():
            if content.startswith(magic):
                content = decompress(content)
        return _PlainUnpickler(io.BytesIO(content), path).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _damaged(path, error) from error


def read_plain_npz(path: str | Path) -> dict[str, Any]:
    """The arrays of a .npz file by name; object arrays hold plain values.

    Raises:
        InputError: missing, damaged, or holding anything but plain values and arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "Give the estimator's output file.")
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _read_npy(path, archive.read(name)) for name in archive.namelist()}
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _read_npy(path: Path, content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    dtype = header(stream)[2]
    if not dtype.hasobject:
        return np.load(io.BytesIO(content), allow_pickle=False)
    return np.asarray(_PlainUnpickler(stream, path).load(), object)


def _empty_dictionary(*_arguments: Any) -> dict:
    """Stands for the constructors of dictionaries with an order or a default; their items follow."""
    return {}


class _JoblibArray(Record):
    """joblib's description of an array whose bytes follow in the stream."""


_CONTAINERS: dict[str, Any] = {
    "collections.defaultdict": _empty_dictionary,
    "collections.OrderedDict": _empty_dictionary,
    "builtins.dict": dict,
    "__builtin__.dict": dict,
    "builtins.list": list,
    "__builtin__.list": list,
    "joblib.numpy_pickle.NumpyArrayWrapper": _JoblibArray,
}

# Python's own implementation: the one in C has no hook for the bytes between joblib's instructions.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _PlainUnpickler(_PythonUnpickler):
    dispatch = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self._stream, self._path = stream, path
        self._restricted = RestrictedUnpickler(io.BytesIO(), path)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for ``module.name``; everything outside the two lists is refused."""
        found = _CONTAINERS.get(f"{module}.{name}")
        if found is not None:
            return found
        try:
            return self._restricted.find_class(module, name)
        except InputError as error:
            raise InputError(
                self._path,
                found=f"a pickle that asks for {module}.{name}",
                expected="dictionaries, lists, numbers and numpy arrays only",
                next_step=_NEXT_STEP,
            ) from error

    def load_build(self) -> None:
        """The instruction after which joblib writes an array's bytes."""
        _PythonUnpickler.load_build(self)
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self._array(self.stack[-1].state)

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, state: dict[str, Any]) -> np.ndarray:
        dtype, shape = np.dtype(state["dtype"]), tuple(int(n) for n in state["shape"])
        if dtype.hasobject:
            raise ValueError("an array of objects")
        if state.get("numpy_array_alignment_bytes") is not None:
            self._stream.read(self._stream.read(1)[0])
        size = dtype.itemsize * int(np.prod(shape))
        content = self._stream.read(size)
        if len(content) != size:
            raise EOFError(f"{len(content)} of {size} bytes of an array")
        return np.frombuffer(content, dtype).reshape(shape, order=state.get("order", "C"))


def _damaged(path: Path, error: Exception) -> InputError:
    found = f"an unreadable file of {path.stat().st_size} bytes ({type(error).__name__}: {error})"
    return InputError(path, found=found, expected="a whole file of plain values and arrays", next_step=_NEXT_STEP)
