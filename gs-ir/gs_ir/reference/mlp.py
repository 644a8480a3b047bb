"""Reference of :mod:`gs_ir.mlp` and :mod:`gs_ir.field`: plain linear layers."""

import torch
from torch import Tensor
from torch.nn import functional

from gs_ir.reference import hash_grid

SHARPNESS = 100.0


def mlp(parts: list[Tensor], layers: list[Tensor], smooth: bool) -> Tensor:
    """Outputs [N, O] for the inputs ``parts``, side by side."""
    hidden = torch.cat(parts, 1)
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        hidden = functional.linear(hidden, weight, bias)
        hidden = functional.softplus(hidden, beta=SHARPNESS) if smooth else torch.relu(hidden)
    return functional.linear(hidden, layers[-2], layers[-1])


def sdf_mlp(
    coordinates: Tensor, features: Tensor, jacobian: Tensor, layers: list[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs [N, O] and the spatial gradient [N, 3] of the first."""
    weight, bias, last, last_bias = layers
    activation = functional.linear(torch.cat([coordinates, features], 1), weight, bias)
    outputs = functional.linear(functional.softplus(activation, beta=SHARPNESS), last, last_bias)
    by_input = (last[0] * torch.sigmoid(SHARPNESS * activation)) @ weight
    gradient = scale * by_input[:, :3] + torch.einsum("nf, nfk -> nk", by_input[:, 3:], jacobian)
    return outputs, gradient


def mlp_backward(
    grad: Tensor, parts: list[Tensor], layers: list[Tensor], smooth: bool, wanted: list[bool]
) -> list[Tensor]:
    """Gradients of the ``wanted`` parts (of the others, empty ones), then of the layers."""
    parts, layers = _leaves(parts), _leaves(layers)
    with torch.enable_grad():
        found = torch.autograd.grad(mlp(parts, layers, smooth), parts + layers, grad)
    kept = [g if w else g.new_empty(0) for g, w in zip(found, wanted[: len(parts)], strict=False)]
    return kept + list(found[len(parts) :])


def sdf_mlp_backward(
    grad_outputs: Tensor,
    grad_gradient: Tensor,
    coordinates: Tensor,
    features: Tensor,
    jacobian: Tensor,
    layers: list[Tensor],
    *,
    scale: float,
) -> list[Tensor]:
    """Gradients of coordinates, features and jacobian, then of the layers."""
    coordinates, features, jacobian, *layers = _leaves([coordinates, features, jacobian, *layers])
    with torch.enable_grad():
        outputs = sdf_mlp(coordinates, features, jacobian, layers, scale)
        inputs = [coordinates, features, jacobian, *layers]
        return list(torch.autograd.grad(outputs, inputs, (grad_outputs, grad_gradient)))


def field_values(
    points: Tensor,
    table: Tensor,
    compact: Tensor | None,
    resolutions: list[int],
    offsets: list[int],
    active_levels: int,
    *,
    layers: list[Tensor],
    smooth: bool,
) -> Tensor:
    """Outputs [N, O] at ``points`` [N, 3] of the unit cube."""
    features = hash_grid.encode(points, table, compact, resolutions, offsets, active_levels, moving=False)
    return mlp([2 * points - 1, features], layers, smooth)


def _leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in tensors]
