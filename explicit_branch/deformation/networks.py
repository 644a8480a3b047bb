"""Small networks and encodings that the optional modules share."""

import math

import torch
from torch import Tensor, nn

from core.rotation import axis_angle_to_matrix


def mlp(inputs: int, outputs: int, *, width: int, depth: int, small_output: bool = False) -> nn.Sequential:
    """``depth`` hidden layers of ``width`` with LeakyReLU(0.01); ``small_output`` starts the output near zero."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(inputs if index == 0 else width, width), nn.LeakyReLU(0.01)]
    last = nn.Linear(width if depth else inputs, outputs)
    if small_output:
        nn.init.normal_(last.weight, std=1e-4)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class SkipMlp(nn.Module):
    """A LeakyReLU network that sees its input again at layer ``skip`` (NeRF's shape)."""

    def __init__(self, inputs: int, outputs: int, *, width: int, depth: int, skip: int) -> None:
        super().__init__()
        self.skip = skip
        sizes = [inputs] + [width] * (depth - 1)
        self.hidden = nn.ModuleList(
            nn.Linear(size + (inputs if index == skip else 0), width) for index, size in enumerate(sizes)
        )
        self.last = mlp(width, outputs, width=width, depth=0, small_output=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        state = inputs
        for index, layer in enumerate(self.hidden):
            state = torch.cat([state, inputs], -1) if index == self.skip else state
            state = nn.functional.leaky_relu(layer(state), 0.01)
        return self.last(state)


def frequency_encoding(points: Tensor, frequencies: int, band: float | None = None) -> Tensor:
    """[N, 3 + 6 F] of points [N, 3] in [-1, 1]: the points, then sin and cos at 2^k pi.

    ``band`` in [0, F] opens the frequencies one after another by a Hann window (Nerfies, Park et al. 2021); None: all.
    """
    octaves = torch.arange(frequencies, dtype=points.dtype, device=points.device)
    angles = points[:, None] * (2**octaves * math.pi)[:, None]
    window = torch.ones_like(octaves)
    if band is not None:
        window = 0.5 * (1 - torch.cos(math.pi * (band - octaves).clamp(0, 1)))
    waves = torch.stack([angles.sin(), angles.cos()], -2) * window[:, None, None]
    return torch.cat([points, waves.flatten(1)], -1)


class PoseEncoder(nn.Module):
    """Hierarchical pose code (LEAP, Mihajlovic et al. 2021): 6 numbers a joint, 144 in all.

    Every joint's two-layer network sees its local rotation, its position, its bone's length and its parent's code.
    """

    joints: Tensor

    def __init__(self, *, joints: Tensor, parents: list[int], size: int = 6) -> None:
        """Args: joints [J, 3] rest positions in metres; parents: index of each joint's parent (-1: root)."""
        super().__init__()
        self.parents, self.outputs = parents, size * len(parents)
        low, high = joints.amin(0), joints.amax(0)
        bones = [0.0 if p < 0 else float((joints[j] - joints[p]).norm()) for j, p in enumerate(parents)]
        normalised = 2 * (joints - low) / (high - low) - 1
        self.register_buffer("joints", torch.cat([normalised, joints.new_tensor(bones)[:, None]], -1), persistent=False)
        self.size = size
        self.layers = nn.ModuleList(mlp(9 + 4 + size, size, width=9 + 4 + size, depth=1) for _ in parents)

    def forward(self, axis_angles: Tensor) -> Tensor:
        """Pose [J, 3] in radians to a code [J * size]; the root's rotation does not enter."""
        rotations = axis_angle_to_matrix(axis_angles).flatten(1)
        rotations = torch.cat(
            [torch.eye(3, dtype=rotations.dtype, device=rotations.device).reshape(1, 9), rotations[1:]]
        )
        codes: list[Tensor] = []
        for joint, parent in enumerate(self.parents):
            above = codes[parent] if parent >= 0 else rotations.new_zeros(self.size)
            codes.append(self.layers[joint](torch.cat([rotations[joint], self.joints[joint], above])))
        return torch.cat(codes)
