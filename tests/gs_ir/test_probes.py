"""Probe query: native against reference, and against visibilities that are known in closed form."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.probes import ProbeVolumes, query_other_probes, query_own_probes, query_probes
from gs_ir.reference import probes as reference

CELL = 0.1
OPEN = math.sqrt(4 * math.pi)


def _volumes(shapes: list[tuple[int, int, int]], generator: torch.Generator) -> ProbeVolumes:
    counts = torch.tensor([math.prod(s) for s in shapes])
    coefficients = 0.3 * torch.randn(int(counts.sum()), 9, generator=generator)
    coefficients[:, 0] = OPEN * torch.rand(len(coefficients), generator=generator)
    coefficients[torch.rand(len(coefficients), generator=generator) < 0.3, 0] *= -1
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    origins = 0.2 * torch.randn(len(shapes), 3, generator=generator)
    return ProbeVolumes(coefficients.half(), offsets, origins, torch.tensor(shapes), CELL)


def _queries(count: int, parts: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, ...]:
    points = 0.5 * torch.randn(count, 3, generator=generator, dtype=dtype)
    normals = normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    own = torch.randint(-1, parts, (count,), generator=generator)
    rotations = torch.linalg.qr(torch.randn(parts, 3, 3, generator=generator, dtype=dtype)).Q
    translations = 0.1 * torch.randn(parts, 3, 1, generator=generator, dtype=dtype)
    return points, normals, own, torch.cat([rotations, translations], -1)


def _uniform_volume(coefficients: Tensor) -> ProbeVolumes:
    """One part, 3 x 3 x 3 probes that all hold ``coefficients`` [9]; box 0 to 0.2 m."""
    shape = torch.tensor([[3, 3, 3]])
    return ProbeVolumes(coefficients.expand(27, 9).half(), torch.tensor([0, 27]), torch.zeros(1, 3), shape, CELL)


def _canonical(points: Tensor, normals: Tensor, own: Tensor) -> dict[str, Tensor]:
    return {"own_part": own, "points_canonical": points, "normals_canonical": normals}


IDENTITY = torch.eye(4)[None, :3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("published", [False, True])
def test_queries_equal_reference(dtype: torch.dtype, published: bool) -> None:
    """Fails when a kernel permutes the corners, misreads an offset, or weights a probe by another rule."""
    generator = torch.Generator().manual_seed(0)
    volumes = _volumes([(2, 3, 4), (5, 2, 3), (4, 4, 4)], generator)
    points, normals, own, transforms = _queries(500, 3, generator, dtype)
    surface = [points, normals, own]
    expected = reference.own_visibility(volumes.tensors, CELL, surface, 1e-3)
    torch.testing.assert_close(query_own_probes(volumes, points, normals, own), expected, atol=2e-4, rtol=0)
    expected = reference.other_visibility(volumes.tensors, CELL, surface, transforms, 1e-4, published)
    found = query_other_probes(volumes, points, normals, own, transforms, published=published)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_product_over_parts() -> None:
    """Fails when a part is left out of the product or the own part enters it twice."""
    generator = torch.Generator().manual_seed(1)
    volumes = _volumes([(3, 3, 3), (3, 3, 3)], generator)
    points, normals, own, transforms = _queries(200, 2, generator, torch.float32)
    found = query_probes(volumes, points, normals, **_canonical(points, normals, own), part_from_world=transforms)
    own_term = query_own_probes(volumes, points, normals, own)
    singles = [query_other_probes(volumes, points, normals, 1 - torch.full_like(own, k), transforms) for k in (0, 1)]
    others = torch.where(own == 0, singles[1], torch.where(own == 1, singles[0], singles[0] * singles[1]))
    torch.testing.assert_close(found, own_term * others)


def test_value_is_the_harmonics_at_the_normal_in_the_parts_frame() -> None:
    """Fails when the normal is not turned into the part's frame: half space y > 0 blocked, visibility (1 - n.y) / 2."""
    coefficients = torch.zeros(9)
    coefficients[0], coefficients[1] = OPEN / 2, -0.5 / 0.4886025119029199
    volumes = _uniform_volume(coefficients)
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # world x is the part's y
    transform = torch.cat([turn, torch.full((3, 1), 0.1)], 1)[None]
    normals = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = query_other_probes(volumes, torch.zeros(3, 3), normals, torch.full((3,), -1), transform)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.5]), atol=1e-3, rtol=0)


def test_own_query_is_blind_to_probes_inside_and_behind() -> None:
    """Fails when probes inside the body darken its own surface: lower layer inside and black, upper layer open."""
    volumes = _uniform_volume(torch.zeros(9))
    volumes.coefficients[:, 0] = OPEN
    volumes.coefficients.view(3, 3, 3, 9)[:2, :, :, 0] = -1e-4  # layers z = 0 and z = 0.1
    points = torch.tensor([[0.05, 0.05, 0.12], [0.11, 0.02, 0.15]])
    up = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    assert (query_own_probes(volumes, points, up, torch.zeros(2, dtype=torch.int64)) > 0.999).all()
    assert (query_other_probes(volumes, points, up, torch.full((2,), -1), IDENTITY) > 0.999).all()
    assert (query_other_probes(volumes, points, -up, torch.full((2,), -1), IDENTITY) < 0.9).all()


def test_cell_without_any_probe_in_front_is_not_black() -> None:
    """Fails when a zero sum of weights becomes visibility 0 (black speckles): all probes inside, all grey."""
    grey = torch.zeros(9)
    grey[0] = -OPEN / 2
    found = query_own_probes(
        _uniform_volume(grey), torch.full((1, 3), 0.07), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1).long()
    )
    torch.testing.assert_close(found, torch.tensor([0.5]), atol=1e-3, rtol=0)


def test_occlusion_fades_outside_the_box() -> None:
    """Fails when the edge value is continued for ever: twice the distance from the centre leaves a quarter."""
    grey = torch.zeros(9)
    grey[0] = OPEN / 2
    points = torch.tensor([[0.2, 0.1, 0.1], [0.3, 0.1, 0.1], [10.0, 0.1, 0.1]])
    normals = torch.tensor([[-1.0, 0.0, 0.0]]).expand(3, 3)
    found = query_other_probes(_uniform_volume(grey), points, normals, torch.full((3,), -1), IDENTITY)
    torch.testing.assert_close(found, torch.tensor([0.5, 1 - 0.5 / 4, 1.0]), atol=2e-3, rtol=0)


def test_no_points() -> None:
    """Empty queries return empty tensors."""
    empty = torch.zeros(0, 3)
    volumes = _uniform_volume(torch.ones(9))
    arguments = _canonical(empty, empty, torch.zeros(0).long())
    assert query_probes(volumes, empty, empty, **arguments, part_from_world=IDENTITY).shape == (0,)
