"""Operators of the avatar framework; see the module of each for shapes and units.

Importing compiles nothing. Native kernels come from ``python -m gs_ir.build``; where they are missing, the PyTorch
references in :mod:`gs_ir.reference` run instead.
"""

from gs_ir import _library
from gs_ir.packed import accumulate

NATIVE_LIBRARIES = _library.load_native()

__all__ = ["NATIVE_LIBRARIES", "accumulate"]
