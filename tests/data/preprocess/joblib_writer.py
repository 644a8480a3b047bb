"""Writes files as joblib does, so that the tests need no joblib: arrays' bytes follow their descriptions."""

import io
import pickle
import sys
import types
import zlib
from contextlib import contextmanager

import numpy as np


class NumpyArrayWrapper:
    """joblib's class of this name, reduced to its state."""


NumpyArrayWrapper.__module__ = "joblib.numpy_pickle"


@contextmanager
def _joblib_modules():
    """Pickle looks a class up where it claims to be."""
    modules = {"joblib": types.ModuleType("joblib"), "joblib.numpy_pickle": types.ModuleType("joblib.numpy_pickle")}
    modules["joblib.numpy_pickle"].NumpyArrayWrapper = NumpyArrayWrapper
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


class _Pickler(pickle._Pickler):
    def save(self, obj, save_persistent_id=True):
        if type(obj) is not np.ndarray:
            return super().save(obj, save_persistent_id)
        wrapper = NumpyArrayWrapper()
        order = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
        wrapper.__dict__ = {"subclass": np.ndarray, "shape": obj.shape, "order": order, "dtype": obj.dtype,
                            "allow_mmap": True, "numpy_array_alignment_bytes": 16}  # fmt: skip
        super().save(wrapper)
        self.framer.commit_frame(force=True)
        padding = 15 - self.stream.tell() % 16
        self.stream.write(bytes([padding]) + b"\xff" * padding + obj.tobytes(order))
        return None


def joblib_bytes(content, compress: bool = False) -> bytes:
    """``content`` as ``joblib.dump`` writes it; compressed as with ``compress=3``."""
    stream = io.BytesIO()
    with _joblib_modules():
        pickler = _Pickler(stream, protocol=4)
        pickler.stream = stream
        pickler.dump(content)
    return zlib.compress(stream.getvalue(), 3) if compress else stream.getvalue()
