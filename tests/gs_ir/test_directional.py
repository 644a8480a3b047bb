"""Directional occlusion: native against reference, and against visibilities that are known in closed form."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.rotation import axis_angle_to_matrix
from gs_ir.directional import (
    DIRECTIONS,
    baked_directions,
    directional_visibility,
    lobe_visibility,
    pack_masks,
    unpack_masks,
)
from gs_ir.probes import ProbeVolumes
from gs_ir.reference import directional as reference

CELL = 0.1
METRES = [CELL, 1e-4]
IDENTITY = torch.eye(4)[None, :3]
STEP = 1 / 255
"""Rounding of a weight; in float32 a tie may fall to the other side."""


def _volumes(shapes: list[tuple[int, int, int]], generator: torch.Generator) -> ProbeVolumes:
    counts = torch.tensor([math.prod(s) for s in shapes])
    probes = int(counts.sum())
    masks = pack_masks(
        torch.rand(probes, DIRECTIONS, generator=generator) < 0.6, torch.rand(probes, generator=generator) < 0.3
    )
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    origins = 0.2 * torch.randn(len(shapes), 3, generator=generator)
    return ProbeVolumes(torch.zeros(probes, 9).half(), offsets, origins, torch.tensor(shapes), CELL, masks)


def _queries(count: int, parts: int, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    points = 0.5 * torch.randn(count, 3, generator=generator, dtype=dtype)
    normals = normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    own_masks = pack_masks(
        torch.rand(count, DIRECTIONS, generator=generator) < 0.6, torch.rand(count, generator=generator) < 0.5
    )
    rotations = torch.stack([axis_angle_to_matrix(a) for a in torch.randn(parts, 3, generator=generator, dtype=dtype)])
    translations = 0.1 * torch.randn(parts, 3, 1, generator=generator, dtype=dtype)
    return {
        "points": points,
        "normals": normals,
        "own_part": torch.randint(-1, parts, (count,), generator=generator),
        "own_masks": own_masks,
        "part_from_world": torch.cat([rotations, translations], -1),
    }


def _uniform(opened: Tensor, inside: bool = False) -> ProbeVolumes:
    """One part, 3 x 3 x 3 probes that all hold ``opened`` [127]; box 0 to 0.2 m."""
    masks = pack_masks(opened.expand(27, -1), torch.full((27,), inside))
    shape = torch.tensor([[3, 3, 3]])
    return ProbeVolumes(torch.zeros(27, 9).half(), torch.tensor([0, 27]), torch.zeros(1, 3), shape, CELL, masks)


def _at(points: Tensor, normals: Tensor, own: int = -1, pose: Tensor = IDENTITY) -> dict[str, Tensor]:
    return {
        "points": points,
        "normals": normals,
        "own_part": torch.full((len(points),), own),
        "own_masks": torch.full((len(points), 2), -1),
        "part_from_world": pose,
    }


def _operands(volumes: ProbeVolumes, query: dict[str, Tensor], directions: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    tables = reference.direction_tables(query["part_from_world"], directions, baked_directions(directions))
    turned = reference.turn_masks(volumes.masks, volumes.offsets, tables)
    names = ("points", "normals", "own_part", "own_masks")
    return [turned, volumes.offsets, volumes.origins, volumes.shapes, tables], [query[name] for name in names]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_queries_equal_reference(dtype: torch.dtype) -> None:
    """Fails when a kernel permutes bits or corners, weights a probe by another rule or skips a part."""
    generator = torch.Generator().manual_seed(0)
    volumes = _volumes([(2, 3, 4), (5, 2, 3), (4, 4, 4)], generator)
    query = _queries(300, 3, generator, dtype)
    directions = normalize(torch.randn(DIRECTIONS, 3, generator=generator, dtype=dtype), dim=-1)
    operands, surface = _operands(volumes, query, directions)
    pose = query["part_from_world"]
    expected = reference.directional_visibility(operands, surface, pose, METRES)
    found = directional_visibility(volumes, **query, directions=directions)
    difference = (found - expected).abs()
    assert float(difference.max()) < (3 * STEP if dtype == torch.float32 else 1e-9)
    assert float((difference > 1e-4).float().mean()) < 1e-3
    energies = torch.rand(DIRECTIONS, 3, generator=generator, dtype=dtype) ** 4
    lobes = [
        normalize(torch.randn(300, 3, generator=generator, dtype=dtype), dim=-1),
        torch.rand(300, generator=generator, dtype=dtype),
    ]
    expected = reference.lobe_visibility(operands, surface, pose, [directions, energies], lobes, METRES)
    found = lobe_visibility(
        volumes, **query, light=(directions, energies), lobe_directions=lobes[0], roughness=lobes[1]
    )
    torch.testing.assert_close(found, expected, atol=2e-3 if dtype == torch.float32 else 1e-9, rtol=0)


def test_masks_keep_their_bits() -> None:
    """Fails when packing loses the sign bit or the order: 127 directions and the mark."""
    generator = torch.Generator().manual_seed(1)
    opened, inside = torch.rand(50, DIRECTIONS, generator=generator) < 0.5, torch.rand(50, generator=generator) < 0.5
    masks = pack_masks(opened, inside)
    assert (masks.shape, masks.dtype) == ((50, 2), torch.int64)
    found = unpack_masks(masks)
    assert torch.equal(found[0], opened)
    assert torch.equal(found[1], inside)


def test_parts_compose() -> None:
    """Fails when parts are averaged: what one part or the other blocks is blocked, bit by bit."""
    generator = torch.Generator().manual_seed(2)
    opened = torch.rand(2, DIRECTIONS, generator=generator) < 0.5
    masks = pack_masks(opened.repeat_interleave(8, 0), torch.zeros(16, dtype=torch.bool))
    shapes = torch.full((2, 3), 2)
    volumes = ProbeVolumes(torch.zeros(16, 9).half(), torch.tensor([0, 8, 16]), torch.zeros(2, 3), shapes, CELL, masks)
    at = _at(torch.full((1, 3), 0.03), torch.tensor([[0.0, 0, 1]]), pose=IDENTITY.expand(2, 3, 4))
    found = directional_visibility(volumes, **at, directions=baked_directions(at["points"]))
    torch.testing.assert_close(found[0], opened.all(0).float())


def test_visibility_turns_with_the_part() -> None:
    """Fails when the pose is applied the wrong way: the part's half space y > 0 is blocked, world x is the part's y."""
    baked = baked_directions(torch.zeros(1))
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    pose = torch.cat([turn, torch.full((3, 1), 0.1)], 1)[None]
    at = _at(torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]), pose=pose)
    found = directional_visibility(_uniform(baked[:, 1] <= 0), **at, directions=baked)
    clear = baked[:, 0].abs() > 0.25
    assert torch.equal(found[0, clear] < 0.5, baked[clear, 0] > 0)


def test_turning_body_and_light_together_changes_nothing() -> None:
    """Fails when a world axis enters: all inputs turned by one rotation give the same shares."""
    generator = torch.Generator().manual_seed(3)
    volumes = _volumes([(4, 4, 4), (3, 5, 3)], generator)
    query = _queries(100, 2, generator, torch.float64)
    light = baked_directions(query["points"]), torch.rand(DIRECTIONS, 3, generator=generator, dtype=torch.float64)
    lobes = {"lobe_directions": query["normals"], "roughness": torch.full((100,), 0.5, dtype=torch.float64)}
    turn = axis_angle_to_matrix(torch.tensor([0.3, -1.1, 0.6], dtype=torch.float64))
    pose = query["part_from_world"]
    turned = query | {
        "points": query["points"] @ turn.T,
        "normals": query["normals"] @ turn.T,
        "part_from_world": torch.cat([pose[:, :, :3] @ turn.T, pose[:, :, 3:]], -1),
    }
    found = [
        lobe_visibility(volumes, **query, light=light, **lobes),
        lobe_visibility(
            volumes, **turned, light=(light[0] @ turn.T, light[1]), **(lobes | {"lobe_directions": turned["normals"]})
        ),
    ]
    torch.testing.assert_close(*found, atol=1e-9, rtol=0)


def test_own_mask_turns_with_its_part() -> None:
    """Fails when the own mask is read in world directions, by another's pose, or own probes count."""
    baked = baked_directions(torch.zeros(1))
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # world x is the part's y
    points = torch.tensor([[0.05, -0.05, 0.05]]).expand(2, 3)
    at = _at(points, torch.tensor([[0.0, 0, 1]]).expand(2, 3), own=0)
    at["part_from_world"] = torch.cat([turn, torch.zeros(3, 1)], 1)[None]
    at["own_masks"] = pack_masks(baked[None, :, 1] <= 0, torch.zeros(1).bool()).expand(2, -1)
    at["own_part"] = torch.tensor([0, -1])
    found = directional_visibility(_uniform(torch.zeros(DIRECTIONS).bool()), **at, directions=baked)
    clear = baked[:, 0].abs() > 0.25
    assert torch.equal(found[0, clear] < 0.5, baked[clear, 0] > 0)
    assert not found[1].any()


def test_probes_inside_count_only_in_front() -> None:
    """Fails when the mark is ignored: lower layers inside and black, upper layer open, seen from above and below."""
    volumes = _uniform(torch.ones(DIRECTIONS, dtype=torch.bool))
    assert volumes.masks is not None
    volumes.masks[:18] = pack_masks(torch.zeros(18, DIRECTIONS).bool(), torch.ones(18).bool())
    points = torch.tensor([[0.05, 0.05, 0.12], [0.11, 0.02, 0.15]])
    up = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    baked = baked_directions(points)
    assert (directional_visibility(volumes, **_at(points, up), directions=baked) == 1).all()
    assert (directional_visibility(volumes, **_at(points, -up), directions=baked) < 0.9).all()


def test_occlusion_fades_outside_the_box() -> None:
    """Fails when the edge value is continued for ever: twice the distance from the centre leaves a quarter."""
    volumes = _uniform(torch.zeros(DIRECTIONS).bool())
    points = torch.tensor([[0.2, 0.1, 0.1], [0.3, 0.1, 0.1], [10.0, 0.1, 0.1]])
    at = _at(points, torch.tensor([[-1.0, 0, 0]]).expand(3, 3))
    found = directional_visibility(volumes, **at, directions=baked_directions(points))
    torch.testing.assert_close(found[:, 5], torch.tensor([0.0, 1 - 1 / 4, 1.0]), atol=5e-3, rtol=0)


def test_shares_follow_the_light() -> None:
    """Fails when a share is weighted by the wrong side: half space x > 0 blocked, red light from +x, green from -x."""
    baked = baked_directions(torch.zeros(1))
    energies = torch.stack([(baked[:, 0] > 0.2).float(), (baked[:, 0] < -0.2).float(), torch.zeros(DIRECTIONS)], 1)
    at = _at(torch.full((1, 3), 0.05), torch.tensor([[0.0, 0, 1]]))
    lobe = {"lobe_directions": normalize(torch.tensor([[1.0, 0, 1]]), dim=-1), "roughness": torch.tensor([0.3])}
    found = lobe_visibility(_uniform(baked[:, 0] <= 0), **at, light=(baked, energies), **lobe)[0]
    torch.testing.assert_close(found[1:], torch.tensor([0.0, 1, 1, 0, 1, 1]), atol=1e-5, rtol=0)
    assert float(found[0]) == pytest.approx(0.5, abs=0.04)
    grey = lobe_visibility(_uniform(baked[:, 0] <= 0), **at, light=(baked, torch.ones(DIRECTIONS, 3)), **lobe)[0]
    torch.testing.assert_close(grey[1:4], grey[:1].expand(3), atol=1e-5, rtol=0)
    assert float(grey[4]) < 0.2


def test_open_sky_leaves_everything() -> None:
    """Fails when an unobstructed point loses light to rounding: all shares are exactly 1."""
    volumes = _uniform(torch.ones(DIRECTIONS).bool())
    generator = torch.Generator().manual_seed(4)
    query = _queries(50, 1, generator, torch.float32) | {"own_masks": torch.full((50, 2), -1)}
    light = baked_directions(query["points"]), torch.rand(DIRECTIONS, 3, generator=generator)
    found = lobe_visibility(
        volumes, **query, light=light, lobe_directions=query["normals"], roughness=torch.rand(50, generator=generator)
    )
    assert (found == 1).all()


def test_bad_queries() -> None:
    """Fails when probes without masks or a wrong number of directions give a picture."""
    at, baked = _at(torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]])), baked_directions(torch.zeros(1))
    volumes = _uniform(torch.ones(DIRECTIONS).bool())
    with pytest.raises(ValueError, match="127, 3"):
        directional_visibility(volumes, **at, directions=baked[:100])
    bare = ProbeVolumes(volumes.coefficients, volumes.offsets, volumes.origins, volumes.shapes, CELL)
    with pytest.raises(ValueError, match="bake them again"):
        directional_visibility(bare, **at, directions=baked)
    empty = _at(torch.zeros(0, 3), torch.zeros(0, 3))
    assert directional_visibility(volumes, **empty, directions=baked).shape == (0, DIRECTIONS)
