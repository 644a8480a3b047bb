"""Small multi-layer perceptrons of the fields."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import mul

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from gs_ir.mlp import fits, mlp
from implicit_branch.fields.once import Once

SHARPNESS = 100.0
"""Softplus sharpness of the signed-distance network (IDR, Yariv et al. 2020)."""


def fusible(layers: Sequence[Tensor], points: Tensor, parts: int = 1) -> bool:
    """Whether the fused kernels take ``layers`` (weights and biases in turn) at ``points``: only worth it on a GPU."""
    return points.is_cuda and points.dtype == torch.float32 and fits(layers, parts)


class SoftplusMlp(nn.Module):
    """Softplus network with weight normalisation, returning value and closed-form gradient of its first output.

    With one hidden layer the gradient is W1^T (w2 * sigmoid(100 a)); no differentiation at run time is needed, so
    an eikonal loss costs one ordinary backward pass.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 64, layers: int = 1) -> None:
        super().__init__()
        widths = [inputs] + [hidden] * layers + [outputs]
        linears = [nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.layers: Sequence[nn.Linear] = nn.ModuleList(linears)  # type: ignore[assignment]

    def initialise_as_sphere(self, radius: float) -> None:
        """Geometric initialisation (Atzmon and Lipman 2020): output 0 is close to |x| - radius, grid inputs unused."""
        for layer in self.layers[:-1]:
            nn.init.zeros_(layer.bias)
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / layer.out_features))
        nn.init.zeros_(self.layers[0].weight[:, 3:])
        last = self.layers[-1]
        nn.init.normal_(last.weight, math.sqrt(math.pi / last.in_features), 1e-4)
        nn.init.constant_(last.bias, -radius)

    def normalise_weights(self) -> None:
        """Put every weight under weight normalisation (Salimans and Kingma 2016)."""
        for layer in self.layers:
            weight_norm(layer)

    def touch(self) -> None:
        """Compute the normalised weights, with gradients, where they are being cached."""
        with torch.enable_grad():
            for layer in self.layers:
                _ = layer.weight

    def tensors(self) -> list[Tensor]:
        """Weights and biases in turn."""
        return [x for layer in self.layers for x in (layer.weight, layer.bias)]

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = functional.softplus(layer(hidden), beta=SHARPNESS)
        return self.layers[-1](hidden)

    def with_gradient(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [N, outputs] and the gradient [N, inputs] of output 0; both differentiable."""
        hidden, slopes, weights = inputs, [], []
        for layer in self.layers[:-1]:
            weight = layer.weight
            activation = functional.linear(hidden, weight, layer.bias)
            hidden = functional.softplus(activation, beta=SHARPNESS)
            slopes.append(torch.sigmoid(SHARPNESS * activation))
            weights.append(weight)
        last = self.layers[-1].weight
        gradient = last[0].expand(inputs.shape[0], -1)
        for slope, weight in zip(reversed(slopes), reversed(weights), strict=True):
            gradient = (gradient * slope) @ weight
        return functional.linear(hidden, last, self.layers[-1].bias), gradient


def relu_mlp(inputs: int, outputs: int, *, hidden: int = 64, layers: int = 2) -> nn.Sequential:
    """ReLU network [N, inputs] to [N, outputs] without an output activation, Kaiming-uniform weights."""
    widths = [inputs] + [hidden] * layers
    modules: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        modules += [nn.Linear(a, b), nn.ReLU(inplace=True)]
    modules.append(nn.Linear(widths[-1], outputs))
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return nn.Sequential(*modules)


def relu_mlp_of_parts(network: nn.Sequential, parts: Sequence[Tensor], *, fused: bool) -> Tensor:
    """``network`` of :func:`relu_mlp` on ``parts`` [N, K_i] side by side; ``fused`` asks for one kernel."""
    layers = [x for m in network if isinstance(m, nn.Linear) for x in (m.weight, m.bias)]
    if fused and fusible(layers, parts[0], len(parts)):
        return mlp(parts, layers, smooth=False)
    return network(torch.cat(list(parts), -1))


class LipschitzMlp(nn.Module):
    """ReLU network whose rows are scaled to an absolute sum of at most softplus(c) (Liu et al. 2022).

    The learned bounds start at twice the largest row sum, so the layer starts inactive; ``bound`` is their product,
    the loss that shrinks them.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        linears = [m for m in relu_mlp(inputs, outputs, hidden=hidden, layers=layers) if isinstance(m, nn.Linear)]
        self.layers: Sequence[nn.Linear] = nn.ModuleList(linears)  # type: ignore[assignment]
        bounds = [2 * layer.weight.detach().abs().sum(1).max() for layer in self.layers]
        # Inverse of softplus, so that softplus(c) is the wanted bound.
        self.bounds = nn.ParameterList(nn.Parameter(torch.log(torch.expm1(b))) for b in bounds)
        self._kept: Once[list[Tensor]] | None = None

    def forward(self, *parts: Tensor, fused: bool = False) -> Tensor:
        """[N, K_i], side by side, to [N, outputs]; ``fused`` asks for one kernel."""
        weights = self.scaled_weights() if self._kept is None else self._kept.get()
        layers = [x for layer, weight in zip(self.layers, weights, strict=True) for x in (weight, layer.bias)]
        if fused and fusible(layers, parts[0], len(parts)):
            return mlp(parts, layers, smooth=False)
        hidden = torch.cat(parts, -1)
        for k, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
            hidden = functional.linear(hidden, weight, layer.bias)
            if k < len(self.layers) - 1:
                hidden = torch.relu(hidden)
        return hidden

    def scaled_weights(self) -> list[Tensor]:
        """The layers' weights with rows scaled to their bounds."""
        weights = []
        for layer, bound in zip(self.layers, self.bounds, strict=True):
            rows = layer.weight.abs().sum(1, keepdim=True)
            weights.append(layer.weight * (functional.softplus(bound) / rows).clamp_max(1.0))
        return weights

    @contextmanager
    def weights_once(self) -> Iterator[None]:
        """Inside, the scaled weights are computed once, when first needed; parameters must not change."""
        self._kept = Once(self.scaled_weights)
        try:
            yield
        finally:
            self._kept = None

    def bound(self) -> Tensor:
        """Upper bound of the Lipschitz constant: the product of the layers' bounds."""
        # Not `prod`, whose gradient looks for zeros and waits for the device.
        return reduce(mul, [functional.softplus(bound) for bound in self.bounds])
