"""CUDA kernels of directional occlusion. Values in [0, 1]; expected worst difference in float32 one or two steps of
1/255, where the weight of a probe is rounded the other way, and 2e-6 elsewhere; 1e-12 in float64.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.rotation import axis_angle_to_matrix
from gs_ir.directional import DIRECTIONS, baked_directions, pack_masks
from gs_ir.probes import OTHER_SHIFT
from gs_ir.reference import directional as reference
from tests.gs_ir.cuda.agreement import assert_agree

METRES = [0.1, OTHER_SHIFT]
TOLERANCE = {torch.float32: {"rtol": 0, "atol": 3 / 255}, torch.float64: {"rtol": 0, "atol": 1e-9}}
SHAPES = [(2, 3, 4), (5, 2, 3), (4, 4, 4), (7, 3, 5)]
CASES = [(0, 2), (1, 1), (31, 4), (333, 9), (70, 21)]


def _volumes(parts: int, generator: torch.Generator) -> list[Tensor]:
    shapes = torch.tensor([SHAPES[k % len(SHAPES)] for k in range(parts)])
    counts = shapes.prod(1)
    probes = int(counts.sum())
    opened = torch.rand(probes, DIRECTIONS, generator=generator) < 0.8
    masks = pack_masks(opened, torch.rand(probes, generator=generator) < 0.3)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return [masks, offsets, 0.2 * torch.randn(parts, 3, generator=generator), shapes]


def _tables(pose: Tensor, light: list[Tensor]) -> Tensor:
    return reference.direction_tables(pose, light[0], baked_directions(pose))


def _case(count: int, parts: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], Tensor, list[Tensor]]:
    """Volumes, points inside and outside their boxes, transforms into the parts, and the light."""
    generator = torch.Generator().manual_seed(100 * count + parts)
    points = 0.5 * torch.randn(count, 3, generator=generator, dtype=dtype)
    normals = normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    own = torch.randint(-1, parts, (count,), generator=generator)
    turns = [axis_angle_to_matrix(torch.randn(3, generator=generator, dtype=dtype)) for _ in range(parts)]
    translations = 0.1 * torch.randn(parts, 3, 1, generator=generator, dtype=dtype)
    directions = normalize(torch.randn(DIRECTIONS, 3, generator=generator, dtype=dtype), dim=-1)
    light = [directions, torch.rand(DIRECTIONS, 3, generator=generator, dtype=dtype) ** 4]
    opened = torch.rand(count, DIRECTIONS, generator=generator) < 0.8
    surface = [points, normals, own, pack_masks(opened, torch.rand(count, generator=generator) < 0.5)]
    pose = torch.cat([torch.stack(turns), translations], -1)
    volumes = _volumes(parts, generator)
    return [*volumes, _tables(pose, light)], surface, pose, light


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parts", [1, 9, 21])
def test_direction_tables(parts, dtype):
    """Fails when a direction is turned the other way, or the entry of the mark is lost."""
    _, _, pose, light = _case(1, parts, dtype)
    inputs = pose, light[0], baked_directions(pose)
    assert_agree(torch.ops.gs_ir.direction_tables, inputs, reference=reference.direction_tables, rtol=0, atol=0)


@pytest.mark.parametrize("parts", [1, 9, 21])
def test_turn_masks(parts):
    """Fails when a bit is taken from another direction or probe, or the mark is lost."""
    volumes, _, _, _ = _case(1, parts, torch.float32)
    inputs = volumes[0], volumes[1], volumes[4]
    assert_agree(torch.ops.gs_ir.turn_masks, inputs, reference=reference.turn_masks, rtol=0, atol=0)


def test_turn_no_masks():
    """Fails when an empty set of probes is launched."""
    volumes, _, _, _ = _case(1, 2, torch.float32)
    inputs = volumes[0][:0], torch.zeros_like(volumes[1]), volumes[4]
    assert_agree(torch.ops.gs_ir.turn_masks, inputs, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "parts"), CASES)
def test_directional_visibility(count, parts, dtype):
    """Fails when a lane reads another word, a part beyond the four of a round is left out, or the last quads differ."""
    volumes, surface, pose, _ = _case(count, parts, dtype)
    inputs = volumes, surface, pose, METRES
    operator = torch.ops.gs_ir.directional_visibility
    assert_agree(operator, inputs, reference=reference.directional_visibility, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "parts"), CASES)
def test_lobe_visibility(count, parts, dtype):
    """Fails when the sums of a quad's lanes are not brought together, or directions and energies are mixed up."""
    volumes, surface, pose, light = _case(count, parts, dtype)
    generator = torch.Generator().manual_seed(count)
    lobes = [
        normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1),
        torch.rand(count, generator=generator, dtype=dtype),
    ]
    inputs = volumes, surface, pose, light, lobes, METRES
    assert_agree(torch.ops.gs_ir.lobe_visibility, inputs, reference=reference.lobe_visibility, **TOLERANCE[dtype])
