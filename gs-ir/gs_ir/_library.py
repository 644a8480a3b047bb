"""Operator registration: one schema, a reference for every device, native kernels where they exist.

The reference is registered as the *default* kernel of the operator, the native library adds CPU and CUDA kernels
that the dispatcher prefers. So nothing asks for a device: a tensor on a device without a kernel takes the reference.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

LIBRARY_VARIABLE = "GS_IR_LIBRARY"
DEFAULT_LIBRARY = Path(__file__).parent / "lib" / "libgs_ir.so"
_signatures: list[str] = []


def define(name: str, signature: str, reference: Callable) -> None:
    """Declare operator ``gs_ir::name`` with ``signature`` and its device-independent ``reference``."""
    _signatures.append(name + signature)
    torch.library.define(f"gs_ir::{name}", signature)
    torch.library.impl(f"gs_ir::{name}", "default", reference)


def define_backward(name: str, signature: str, reference: Callable, *, constant: str | None = None) -> None:
    """Declare ``gs_ir::name`` whose default kernel differentiates ``reference`` by autograd.

    The operator's arguments are the cotangents of the reference's outputs followed by the reference's inputs:
    as many cotangents as the reference has outputs. It returns one gradient per *floating-point tensor* input of the
    reference, in order (zeros where the output does not depend on it), except for the input named ``constant``.
    Keyword-only arguments of the schema go to the reference as they are.
    """

    names = reference.__code__.co_varnames[: reference.__code__.co_argcount]

    def backward(*arguments, **keywords):
        cotangents, inputs = _split_cotangents(arguments, reference)
        with torch.enable_grad():
            inputs = tuple(x if n == constant else _leaf(x) for n, x in zip(names, inputs, strict=True))
            outputs = reference(*inputs, **keywords)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
            used = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
            gradients = torch.autograd.grad([o for o, _ in used], leaves, [c for _, c in used], allow_unused=True)
        filled = tuple(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True))
        return filled if len(filled) > 1 else filled[0]

    define(name, signature, backward)


def _split_cotangents(arguments: tuple, reference: Callable) -> tuple[tuple, tuple]:
    count = len(arguments) - reference.__code__.co_argcount
    return arguments[:count], arguments[count:]


def _leaf(value):
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().requires_grad_()
    return value


def has_kernel(name: str, backend: str) -> bool:
    """Whether operator ``gs_ir::name`` has a native kernel for ``backend`` (``CPU`` or ``CUDA``)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"gs_ir::{name}", backend)


def fingerprint() -> str:
    """Hash of the operators' schemas: a library registered for other schemas cannot be loaded."""
    return hashlib.sha256("\n".join(sorted(_signatures)).encode()).hexdigest()


def stamp(library: Path) -> Path:
    """The file beside ``library`` that holds the fingerprint it was built for."""
    return library.with_suffix(".schemas")


def load_native() -> list[Path]:
    """Load the native kernels; return the libraries loaded (empty: the references run).

    ``GS_IR_LIBRARY`` names other libraries, separated by ``os.pathsep``, to load instead of the built one.

    Raises:
        FileNotFoundError: ``GS_IR_LIBRARY`` names a file that does not exist.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    paths = [Path(p) for p in named.split(os.pathsep)] if named else [DEFAULT_LIBRARY]
    for path in paths:
        if not path.exists():
            if named:
                raise FileNotFoundError(f"{LIBRARY_VARIABLE} names {path}, which does not exist; run `make native`")
            _log.warning("gs_ir: no native library at %s, using the PyTorch references (slow); run `make native`", path)
            return []
        if not named and (not stamp(path).exists() or stamp(path).read_text() != fingerprint()):
            _log.warning("gs_ir: %s was built for other operators, using the references; run `make native`", path)
            return []
        torch.ops.load_library(str(path))
    return paths
