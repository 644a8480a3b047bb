"""CUDA kernels of occlusion probes. Values in [0, 1]; expected worst difference 2e-5 in float32, from quotients of
small sums of weights, and 1e-12 in float64.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.probes import OTHER_SHIFT, OWN_SHIFT, ProbeVolumes
from gs_ir.reference import probes as reference
from tests.gs_ir.cuda.agreement import assert_agree

CELL = 0.1
TOLERANCE = {torch.float32: {"rtol": 0, "atol": 2e-4}, torch.float64: {"rtol": 0, "atol": 1e-10}}
SHAPES = [(2, 3, 4), (5, 2, 3), (4, 4, 4), (7, 3, 5)]


def _volumes(parts: int, generator: torch.Generator) -> list[Tensor]:
    shapes = torch.tensor([SHAPES[k % len(SHAPES)] for k in range(parts)])
    counts = shapes.prod(1)
    coefficients = 0.3 * torch.randn(int(counts.sum()), 9, generator=generator)
    coefficients[:, 0] = math.sqrt(4 * math.pi) * torch.rand(len(coefficients), generator=generator)
    coefficients[torch.rand(len(coefficients), generator=generator) < 0.3, 0] *= -1
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return [coefficients.half(), offsets, 0.2 * torch.randn(parts, 3, generator=generator), shapes]


def _case(count: int, parts: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Volumes, points inside and outside their boxes with normals and own parts, and transforms into the parts."""
    generator = torch.Generator().manual_seed(100 * count + parts)
    points = 0.5 * torch.randn(count, 3, generator=generator, dtype=dtype)
    normals = normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    own = torch.randint(-1, parts, (count,), generator=generator)
    rotations = torch.linalg.qr(torch.randn(parts, 3, 3, generator=generator, dtype=dtype)).Q
    translations = 0.1 * torch.randn(parts, 3, 1, generator=generator, dtype=dtype)
    return _volumes(parts, generator), [points, normals, own], torch.cat([rotations, translations], -1)


def _padded(volumes: list[Tensor]) -> list[Tensor]:
    return ProbeVolumes(*volumes, CELL).tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "parts"), [(0, 2), (1, 1), (31, 4), (700, 9)])
def test_own_visibility(count, parts, dtype):
    """Fails when a probe is misread or weighted by another rule."""

    def query(volumes, surface):
        return torch.ops.gs_ir.own_visibility(_padded(volumes), CELL, surface, OWN_SHIFT)

    def expected(volumes, surface):
        return reference.own_visibility(volumes, CELL, surface, OWN_SHIFT)

    volumes, surface, _ = _case(count, parts, dtype)
    assert_agree(query, (volumes, surface), reference=expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("count", "parts"), [(0, 2), (1, 1), (31, 4), (700, 9), (100, 21)])
def test_other_visibility(count, parts, published, dtype):
    """Fails when a part is left out of the product (also beyond the 16 of a round) or the own part enters it."""

    def query(volumes, surface, transforms):
        visibility = torch.ops.gs_ir.other_visibility
        return visibility(_padded(volumes), CELL, surface, transforms, OTHER_SHIFT, published)

    def expected(volumes, surface, transforms):
        return reference.other_visibility(volumes, CELL, surface, transforms, OTHER_SHIFT, published)

    assert_agree(query, _case(count, parts, dtype), reference=expected, **TOLERANCE[dtype])


def test_without_padding():
    """Fails when coefficients that lie tightly, nine halves a probe, are read as rows of sixteen."""

    def query(volumes, surface, transforms):
        return torch.ops.gs_ir.other_visibility(volumes, CELL, surface, transforms, OTHER_SHIFT, False)

    assert_agree(query, _case(300, 3, torch.float32), rtol=0, atol=2e-4)
