"""Occlusion probes of the embedded subject, and the ray queries behind them: ``python -m benchmarks.bench_probes``.

``bake``: nine parts of the canonical body at the default settings, from a mesh in host memory to probes on the device.
``probe_query``: the product over nine parts at the points of the anchor workload. ``any_hit_*``: rays at the body
subdivided to 50k triangles; rays a second are points / median. ``refit``: that tree around moved vertices.
``nearest_*``: neighbours of the anchor workload's points among the body's vertices and among themselves.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import trimesh
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.anchor_cloud import cloud
from benchmarks.timing import Row, busy, make_row, measure, row, write_rows
from body_models import load_body
from body_models.canonical import CanonicalBody
from body_models.parts import PART_NAMES, part_of_points
from data import embedded
from gs_ir.bvh import TriangleBvh, any_hit, build_bvh, refit_bvh
from gs_ir.nearest import nearest_neighbours
from gs_ir.probes import ProbeVolumes, query_other_probes, query_own_probes
from workflows.bake_occlusion import bake_mesh

POINTS = (50_000, 100_000, 200_000)
TRIANGLES = 50_000
RAYS = 1 << 22
RAYS_PER_POINT = 64
EYE = (0.1, 0.2, 2.5)
BAKES = 3


def query(body: CanonicalBody, volumes: ProbeVolumes, count: int) -> Callable[[], Tensor]:
    """Looks ``count`` points of the anchor workload, which stands as the canonical body does, up in all parts."""
    device, scene = body.vertices.device, cloud(count)
    points, normals = scene.centers.to(device), scene.rotations[:, :, 2].to(device).contiguous()
    shift = body.vertices.aminmax(dim=0)
    shift = (shift.min + shift.max) / 2 - (points.amin(0) + points.amax(0)) / 2
    own = part_of_points(body.weights)[nearest_neighbours(points + shift, body.vertices, 1)[1][:, 0]]
    transforms = torch.cat([torch.eye(3, device=device), shift[:, None]], 1).expand(len(PART_NAMES), 3, 4).contiguous()

    def visibility() -> Tensor:
        mine = query_own_probes(volumes, points + shift, normals, own)
        return mine * query_other_probes(volumes, points, normals, own, transforms)

    return visibility


def fine_mesh(body: CanonicalBody) -> tuple[Tensor, Tensor]:
    """The body's surface [V, 3], [F, 3] in at least 50k triangles."""
    vertices, faces = body.vertices.cpu().numpy(), body.faces.cpu().numpy()
    while len(faces) < TRIANGLES:
        vertices, faces = trimesh.remesh.subdivide(vertices, faces)
    device = body.vertices.device
    return torch.as_tensor(vertices, device=device).float(), torch.as_tensor(faces, device=device)


def coherent_rays(vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and directions [R, 3] from one eye through a lattice of points that covers the body's box."""
    low, high = vertices.aminmax(dim=0)
    side = int(RAYS**0.5)
    line = torch.linspace(0, 1, side, device=vertices.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    through = low + torch.stack([x, y, torch.full_like(x, 0.5)], -1).reshape(-1, 3) * (high - low)
    eye = (low + high) / 2 + vertices.new_tensor(EYE)
    return eye.expand_as(through).contiguous(), through - eye


def hemisphere_rays(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and directions [R, 3]: 64 random directions above each of random surface points."""
    generator = torch.Generator(vertices.device).manual_seed(0)
    chosen = torch.randint(len(faces), (RAYS // RAYS_PER_POINT,), generator=generator, device=vertices.device)
    corners = vertices[faces[chosen]]
    normals = normalize(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=-1)
    normals = normals.repeat_interleave(RAYS_PER_POINT, 0)
    random = normalize(torch.randn(normals.shape, generator=generator, device=vertices.device), dim=-1)
    above = torch.where((random * normals).sum(-1, keepdim=True) < 0, -random, random)
    return corners.mean(1).repeat_interleave(RAYS_PER_POINT, 0), above


def probe_rows(body: CanonicalBody, repeats: int) -> list[Row]:
    """Bake and query."""
    mesh = body.vertices.cpu(), body.faces.cpu()

    def bake() -> ProbeVolumes:
        return bake_mesh(*mesh, body)

    volumes = bake()
    method = f"{BAKES} bakes after 1; {len(mesh[1])} triangles, {len(volumes.coefficients)} probes, 256 rays each"
    measured = [make_row("bake", measure(bake, warmup=1, repeats=BAKES), busy(bake, repeats=1), method)]
    for count in POINTS:
        visibility = query(body, volumes, count)
        measured.append(row("probe_query", visibility, "own and eight other parts", repeats=repeats, points=count))
    return measured


def ray_rows(body: CanonicalBody, repeats: int) -> list[Row]:
    """Rays and refitting."""
    vertices, faces = fine_mesh(body)
    bvh = build_bvh(vertices, faces)
    measured = [row("refit", lambda: refit_bvh(bvh, vertices), f"{len(faces)} triangles", repeats=repeats)]
    for name, rays in (("coherent", coherent_rays(vertices)), ("hemisphere", hemisphere_rays(vertices, faces))):
        trace = _tracing(bvh, rays)
        method = f"{len(faces)} triangles, {trace().float().mean():.0%} hit"
        measured.append(row(f"any_hit_{name}", trace, method, repeats=max(1, repeats // 10), points=len(rays[0])))
    return measured


def _tracing(bvh: TriangleBvh, rays: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
    return lambda: any_hit(bvh, *rays, 1e-3, 10.0)


def neighbour_rows(body: CanonicalBody, count: int, repeats: int) -> list[Row]:
    """Nearest neighbours."""
    points = cloud(count).centers.to(body.vertices.device)
    return [
        row(f"nearest_{name}", partial(nearest_neighbours, points, among, k), f"{k} of {len(among)}",
            repeats=max(1, repeats // 10), points=count)
        for name, among, k in (("vertices", body.vertices, 7), ("points", points, 4))
    ]  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/probes.json"))
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    body = CanonicalBody(load_body("embedded", embedded.GENDER).to(device), torch.zeros(10))
    repeats = arguments.repeats
    measured = probe_rows(body, repeats) + ray_rows(body, repeats) + neighbour_rows(body, 100_000, repeats)
    write_rows(arguments.output, measured)


if __name__ == "__main__":
    main()
