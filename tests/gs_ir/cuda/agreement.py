"""One call on three backends: the CUDA kernel, the CPU kernel, and the reference in PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def assert_agree(
    operator: Callable, inputs: tuple, *, reference: Callable | None = None, rtol: float, atol: float, seed: int = 0
) -> dict[str, float]:
    """Compare ``operator(*inputs)`` on the GPU with the CPU's, and with ``reference(*inputs)`` on the CPU.

    Inputs that require a gradient are differentiated under random cotangents. Integer and boolean outputs must be
    equal; floating ones within ``atol`` + ``rtol`` |expected|.

    Returns:
        largest absolute difference by name (``value 0``, ``gradient 1``, ...); ``MEASURED.md`` has them.
    """
    found = _run(operator, inputs, "cuda", seed)
    worst: dict[str, float] = {}
    for backend in (operator, reference):
        if backend is None:
            continue
        for name, expected in _run(backend, inputs, "cpu", seed).items():
            torch.testing.assert_close(found[name], expected, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
            if expected.is_floating_point() and expected.numel():
                difference = (found[name] - expected).abs().nan_to_num(0).max()
                worst[name] = max(worst.get(name, 0.0), float(difference))
    return worst


def moved(value: Any, device: str) -> Any:
    """``value`` with its tensors on ``device``; lists and tuples are followed."""
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return type(value)(moved(v, device) for v in value)
    return value


def _run(operator: Callable, inputs: tuple, device: str, seed: int) -> dict[str, Tensor]:
    arguments = moved(inputs, device)
    outputs = operator(*arguments)
    outputs = [o for o in (outputs if isinstance(outputs, list | tuple) else [outputs]) if isinstance(o, Tensor)]
    results = {f"value {i}": o.detach().cpu() for i, o in enumerate(outputs)}
    leaves = [(i, a) for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.requires_grad]
    if leaves:
        generator = torch.Generator().manual_seed(seed)
        smooth = [o for o in outputs if o.requires_grad]
        cotangents = [torch.randn(o.shape, generator=generator, dtype=o.dtype).to(device) for o in smooth]
        gradients = torch.autograd.grad(smooth, [a for _, a in leaves], cotangents, allow_unused=True)
        for (i, leaf), gradient in zip(leaves, gradients):
            results[f"gradient {i}"] = torch.zeros_like(leaf).cpu() if gradient is None else gradient.cpu()
    return results
