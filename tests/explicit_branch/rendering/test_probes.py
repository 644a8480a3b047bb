"""Occlusion probes: bake against brute-force ray casting and closed forms, storage, bad files."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor
from torch.nn.functional import normalize

from core.brdf import sample_cosine
from core.errors import InputError
from core.rotation import axis_angle_to_matrix
from explicit_branch.rendering.probes import (
    PUBLISHED_NEAR,
    Occlusion,
    OcclusionProbes,
    bake_probes,
    load_probes,
    save_probes,
)
from gs_ir.bvh import any_hit, build_bvh
from gs_ir.probes import ProbeVolumes, query_other_probes, query_own_probes

FIELDS = ("coefficients", "offsets", "origins", "shapes", "masks", "surface_points", "surface_masks")
RADIUS = 0.045
IDENTITY = torch.eye(4)[None, :3]


def _mesh(shape: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.array(shape.vertices), dtype=torch.float32), torch.tensor(np.array(shape.faces)).long()


def _limb(turn: Tensor) -> tuple[Tensor, Tensor]:
    """A limb 9 cm thick and 70 cm long along ``turn``'s z axis."""
    vertices, faces = _mesh(trimesh.creation.cylinder(radius=RADIUS, height=0.7, sections=32))
    return vertices @ turn.T, faces


def _bake(vertices: Tensor, faces: Tensor, **options: float) -> ProbeVolumes:
    """All of the mesh as one part."""
    joint = torch.zeros(len(vertices), dtype=torch.int64)
    return bake_probes(
        vertices, faces, joint, torch.zeros(24, dtype=torch.int64), **({"margin": 0.16, "places": 1000} | options)
    )


def _around_limb(turn: Tensor, gap: float, count: int = 500) -> tuple[Tensor, Tensor]:
    """Points at ``gap`` from the limb's middle third, and the unit direction away from its axis."""
    generator = torch.Generator().manual_seed(0)
    angle, height = 2 * torch.pi * torch.rand(count, generator=generator), torch.rand(count, generator=generator) - 0.5
    radial = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    points = radial * (RADIUS + gap) + 0.25 * height[:, None] * torch.tensor([0.0, 0.0, 1.0])
    return points @ turn.T, radial @ turn.T


TILTED = axis_angle_to_matrix(torch.tensor([0.4, 0.7, -0.2]))


@pytest.fixture(scope="module")
def tilted_limb() -> ProbeVolumes:
    return _bake(*_limb(TILTED))


@pytest.mark.parametrize(("gap", "blocked"), [(0.01, 0.82), (0.02, 0.68), (0.05, 0.49), (0.10, 0.30)])
def test_contact_shadow_of_a_limb(tilted_limb: ProbeVolumes, gap: float, blocked: float) -> None:
    """Fails when near occluders are lost: the limb faces a surface at 1 to 10 cm, true fractions in closed form.

    Measured mean errors 0.05, 0.01, 0.004, 0.004.
    """
    points, radial = _around_limb(TILTED, gap)
    open_share = query_other_probes(tilted_limb, points, -radial, torch.full((len(points),), -1), IDENTITY)
    error = (1 - open_share - blocked).abs()
    assert float(error.mean()) < 0.07
    assert float(error.max()) < 0.15


def test_surface_that_faces_away_stays_open(tilted_limb: ProbeVolumes) -> None:
    """Fails when probes inside the limb darken what only touches it (a seam between two parts)."""
    points, radial = _around_limb(TILTED, 1e-3)
    open_share = query_other_probes(tilted_limb, points, radial, torch.full((len(points),), -1), IDENTITY)
    assert float(open_share.min()) > 0.95


def test_convex_part_does_not_shade_itself(tilted_limb: ProbeVolumes) -> None:
    """Fails when probes under the surface enter the part's own lookup."""
    points, radial = _around_limb(TILTED, 0.0)
    assert float(query_own_probes(tilted_limb, points, radial, torch.zeros(len(points)).long()).min()) > 0.99


def test_published_near_plane_loses_contact() -> None:
    """Fails when the switch to the reference system's bake is lost: at 2 cm it sees under 15 % instead of 68 %."""
    volumes = _bake(*_limb(TILTED), near=PUBLISHED_NEAR, cell=0.05, directions=128)
    points, radial = _around_limb(TILTED, 0.02)
    open_share = query_other_probes(volumes, points, -radial, torch.full((len(points),), -1), IDENTITY)
    assert float(1 - open_share.mean()) < 0.15


def test_probes_against_brute_force() -> None:
    """Fails when projection or convolution is wrong: a box seen from 8 cm and more, 1024 cosine-distributed rays.

    Measured mean error 0.006, worst 0.03.
    """
    vertices, faces = _mesh(trimesh.creation.box(extents=(0.3, 0.1, 0.2)))
    volumes = _bake(vertices, faces, margin=0.3)
    generator = torch.Generator().manual_seed(1)
    points = 0.8 * torch.rand(400, 3, generator=generator) - 0.4
    outside = (points.abs() - torch.tensor([0.15, 0.05, 0.1])).clamp_min(0).norm(dim=1)
    points = points[(outside > 0.08) & ((points.abs() - torch.tensor([0.15, 0.05, 0.1])).amax(1) < 0.28)]
    normals = normalize(0.5 * torch.randn(points.shape, generator=generator) - points, dim=-1)
    expected = _brute_force(vertices, faces, points, normals)
    error = (query_other_probes(volumes, points, normals, torch.full((len(points),), -1), IDENTITY) - expected).abs()
    assert len(points) > 50
    assert float(error.mean()) < 0.012
    assert float(error.max()) < 0.05


def _brute_force(vertices: Tensor, faces: Tensor, points: Tensor, normals: Tensor, rays: int = 1024) -> Tensor:
    """Share [N] of cosine-distributed rays that meet nothing within a metre."""
    uniforms = torch.rand(len(points), rays, 2, generator=torch.Generator().manual_seed(2))
    uniforms[..., 0] = (torch.arange(rays) + uniforms[..., 0]) / rays
    directions = sample_cosine(normals[:, None].expand(-1, rays, 3), uniforms)
    origins = (points + 1e-3 * normals)[:, None].expand_as(directions)
    hit = any_hit(build_bvh(vertices, faces), origins.reshape(-1, 3), directions.reshape(-1, 3), 1e-4, 1.0)
    return 1 - hit.reshape(len(points), rays).float().mean(1)


def _two_limbs() -> tuple[Tensor, Tensor, Tensor]:
    """One closed limb along x, its halves two parts (joints 0 and 1): vertices, faces, joint of each vertex."""
    vertices, faces = _mesh(trimesh.creation.cylinder(radius=RADIUS, height=0.6, sections=32).subdivide_to_size(0.05))
    vertices = vertices[:, [2, 0, 1]]
    return vertices, faces, (vertices[:, 0] > 0).long()


def test_seam_between_two_parts_is_not_shaded() -> None:
    """Fails when a part shades the neighbour that continues it: a straight limb is open, across the seam too."""
    vertices, faces, joint = _two_limbs()
    volumes = bake_probes(vertices, faces, joint, torch.tensor([0, 1]), margin=0.15, places=1000)
    angle = torch.linspace(0, 6, 200)
    radial = torch.stack([0 * angle, angle.cos(), angle.sin()], -1)
    points = RADIUS * radial + torch.linspace(-0.12, 0.12, 200)[:, None] * torch.tensor([1.0, 0, 0])
    own = (points[:, 0] > 0).long()
    probes = OcclusionProbes(volumes)
    found = probes.query(
        points,
        radial,
        own_part=own,
        points_canonical=points,
        normals_canonical=radial,
        part_from_world=IDENTITY.expand(2, 3, 4),
    )
    assert float(found.mean()) > 0.98
    assert float(found.min()) > 0.85


def test_bent_limb_against_brute_force() -> None:
    """Fails when a pose is applied the wrong way: two halves folded to 48 degrees, the inner sides shade each other.

    Measured mean error 0.02 where the true mean occlusion is 0.13.
    """
    vertices, faces, joint = _two_limbs()
    volumes = bake_probes(vertices, faces, joint, torch.tensor([0, 1]), margin=0.25, places=1000)
    bend = torch.eye(4)
    bend[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, 0.0, 2.3]))
    world_from_part = torch.stack([torch.eye(4), bend])
    angle = 1.2 * torch.sin(torch.arange(300.0) ** 2)
    radial = torch.stack([0 * angle, angle.cos(), angle.sin()], -1)
    along = torch.linspace(0.1, 0.28, 300) * torch.sign(torch.sin(torch.arange(1.0, 301.0)))
    points_canonical = RADIUS * radial + along[:, None] * torch.tensor([1.0, 0, 0])
    own = (along > 0).long()
    turn = world_from_part[own, :3, :3]
    points, normals = ((turn @ x[..., None]).squeeze(-1) for x in (points_canonical, radial))
    found = OcclusionProbes(volumes).query(
        points,
        normals,
        own_part=own,
        points_canonical=points_canonical,
        normals_canonical=radial,
        part_from_world=torch.linalg.inv(world_from_part)[:, :3],
    )
    posed = (world_from_part[joint, :3, :3] @ vertices[..., None]).squeeze(-1)
    expected = _brute_force(posed, faces, points, normals, 256)
    error = (found - expected).abs()
    assert float((1 - expected).mean()) > 0.05
    assert float(error.mean()) < 0.03
    assert float(error.quantile(0.95)) < 0.12


def test_winding_does_not_matter() -> None:
    """Fails when an inside-out mesh marks the outside as inside."""
    vertices, faces = _limb(TILTED)
    baked = [_bake(vertices, f, cell=0.06, directions=64).coefficients for f in (faces, faces.flip(1))]
    assert torch.equal(*baked)


def test_part_without_faces_is_open() -> None:
    """Fails when a part that the mesh lacks gives an empty lattice or a shadow."""
    vertices, faces = _limb(torch.eye(3))
    joint = torch.zeros(len(vertices), dtype=torch.int64)
    volumes = bake_probes(vertices, faces, joint, torch.tensor([0, 2]), cell=0.1, directions=16, places=1000)
    points = torch.tensor([[0.05, 0.05, 0.05], [3.0, 0, 0]])
    found = query_other_probes(volumes, points, points, torch.zeros(2).long(), IDENTITY.expand(3, 3, 4))
    torch.testing.assert_close(found, torch.ones(2), atol=1e-3, rtol=0)


# ---- Storage ---------------------------------------------------------------------------------------------------------


def _small_volumes() -> ProbeVolumes:
    return _bake(*_limb(torch.eye(3)), cell=0.15, directions=16)


def test_file_round_trip(tmp_path: Path) -> None:
    """Fails when an array changes type or the lattice spacing is lost."""
    volumes = _small_volumes()
    save_probes(volumes, tmp_path / "deep" / "probes.npz")
    found = load_probes(tmp_path / "deep" / "probes.npz")
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(volumes, name))
    assert found.cell == volumes.cell
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["probes.npz"]


def test_state_survives_a_checkpoint(tmp_path: Path) -> None:
    """Fails when the state holds something that safe loading refuses."""
    probes = OcclusionProbes(_small_volumes())
    torch.save(probes.state(), tmp_path / "state.pth")
    found = OcclusionProbes.from_state(torch.load(tmp_path / "state.pth", weights_only=True))
    for name in FIELDS:
        assert torch.equal(getattr(found.volumes, name), getattr(probes.volumes, name))


def test_state_of_schema_one(tmp_path: Path) -> None:
    """Fails when probes of earlier versions, which have no masks, cannot be read or written."""
    state = OcclusionProbes(_small_volumes()).state()
    bare = {k: v for k, v in state.items() if k not in ("masks", "surface_points", "surface_masks")} | {"schema": 1}
    probes = OcclusionProbes.from_state(bare)
    assert probes.to("cpu").volumes.masks is None
    save_probes(probes.volumes, tmp_path / "probes.npz")
    found = load_probes(tmp_path / "probes.npz")
    assert found.masks is None
    assert torch.equal(found.coefficients, probes.volumes.coefficients)


def test_unusable_files(tmp_path: Path) -> None:
    """Fails when a foreign, truncated, mismatched or newer file raises something that does not name it."""
    path = tmp_path / "probes.npz"
    with pytest.raises(InputError, match="no file"):
        load_probes(path)
    save_probes(_small_volumes(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_probes(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(InputError, match="cannot be read"):
        load_probes(path)
    np.savez(path, vertices=np.zeros(3))
    with pytest.raises(InputError, match="kind None"):
        load_probes(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="cannot be read"):
        load_probes(path)
    state = OcclusionProbes(_small_volumes()).state()
    with pytest.raises(InputError, match="schema 3"):
        OcclusionProbes.from_state(state | {"schema": 3})
    with pytest.raises(InputError, match="no surface_masks"):
        OcclusionProbes.from_state({k: v for k, v in state.items() if k != "surface_masks"})
    with pytest.raises(InputError, match="belong together"):
        OcclusionProbes.from_state(state | {"masks": state["masks"][1:]})
    with pytest.raises(InputError, match="belong together"):
        OcclusionProbes.from_state(state | {"coefficients": state["coefficients"][:-1]})


def test_occlusion_modes() -> None:
    """Fails when a mode is not known, or a misspelled one is accepted."""
    assert Occlusion.parse("ambient") is Occlusion.AMBIENT
    assert Occlusion.parse("directional") is Occlusion.DIRECTIONAL
    with pytest.raises(InputError, match="none, ambient or directional"):
        Occlusion.parse("ambiant")
