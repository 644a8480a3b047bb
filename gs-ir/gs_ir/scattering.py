"""Light that points along rays scatter, integrated by drawn directions, in few kernels. No gradient.

K draws of R rays are [K, R]: neighbouring rays lie side by side. Random numbers come from Philox, a function of the
seed, the ray and the draw; no tensor of them is made.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.bvh import Hits
from gs_ir.marching import RaySamples
from gs_ir.reference import scattering as reference

_LIGHT = "Tensor[] light, float[] light_from_world"
define(
    "scatter_points",
    "(Tensor t_starts, Tensor t_ends, Tensor packed_info, Tensor weights, Tensor limit, int draws)"
    " -> (Tensor, Tensor, Tensor)",
    reference.scatter_points,
)
define(
    "scatter_rays",
    f"(Tensor origins, Tensor directions, Tensor rows, Tensor depth, Tensor surface, {_LIGHT}, int strategy,"
    " float offset, Tensor seed) -> (Tensor, Tensor, Tensor)",
    reference.scatter_rays,
)
define(
    "gather_scattered",
    f"(Tensor directions, Tensor rows, Tensor share, Tensor surface, {_LIGHT}, Tensor[] drawn, Tensor visible,"
    " Tensor? indirect) -> Tensor",
    reference.gather_scattered,
)
define(
    "scatter_once",
    f"(Tensor surface, Tensor view, {_LIGHT}, int strategy, Tensor seed) -> (Tensor, Tensor)",
    reference.scatter_once,
)
define(
    "surface_at_hits",
    "(Tensor hits, Tensor face, Tensor barycentric, Tensor directions, Tensor faces, Tensor vertices,"
    " Tensor canonical) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.surface_at_hits,
)

SURFACE_WIDTH = 8


class Strategy(IntEnum):
    """What directions are drawn by."""

    COSINE = reference.COSINE
    """The cosine about the normal."""
    LIGHT = reference.LIGHT
    """The light's energy."""
    MATERIAL = reference.MATERIAL
    """Both lobes of the surface, chosen by what they reflect."""
    MIXTURE = reference.MIXTURE
    """Half by the light, half by the lobes; weighted by the balance heuristic (Veach 1997)."""


@dataclass(frozen=True)
class FarLight:
    """A light at infinity as the kernels read it."""

    tensors: list[Tensor]
    """A map: image [H, W, 3] of :mod:`gs_ir.equirect`, cumulative energy of its rows [H] and, in each row, of its
    texels [H W] with the row's number added (both float64), density of each texel [H, W] per solid angle.
    Gaussians: lobes [L, 8] of unit axis, sharpness, amplitude [3], share of the energy over the lobe's integral; and
    cumulative shares [L]."""
    light_from_world: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    """Rotation, row by row; of maps."""

    @property
    def arguments(self) -> tuple[list[Tensor], list[float]]:
        """What the operators take."""
        return self.tensors, list(self.light_from_world)


@dataclass(frozen=True)
class ScatterPoints:
    """K draws from the compositing weights of R rays."""

    rows: Tensor
    """[K, R] int32, the interval whose surface scatters; -1: the background."""
    depth: Tensor
    """[K, R] along the ray."""
    share: Tensor
    """[K, R] of the pixel."""


@dataclass(frozen=True)
class ScatterRays:
    """A ray from every drawn point; draw k of ray r has number k R + r."""

    origins: Tensor
    """[K R, 3], off the surface."""
    directions: Tensor
    """[K R, 3] unit; zero where nothing is scattered, which hits nothing."""
    density: Tensor
    """[K R] per solid angle."""


def surface_rows(normal: Tensor, albedo: Tensor, roughness: Tensor, metallic: Tensor) -> Tensor:
    """[S, 8] of unit ``normal`` [S, 3], linear ``albedo`` [S, 3], perceptual ``roughness`` [S], ``metallic`` [S]."""
    return torch.cat([normal, albedo, roughness[:, None], metallic[:, None]], -1)


@torch.no_grad()
def draw_scatter_points(samples: RaySamples, weights: Tensor, limit: Tensor, draws: int) -> ScatterPoints:
    """Points that stand for a ray: the CDF of its weights inverted at the centres of ``draws`` strata.

    What an interval weighs is shared by the draws in it.

    Args:
        samples: S intervals of R rays.
        weights: [S] compositing weights.
        limit: [R] depth beyond which no point is placed.
        draws: K.

    Raises:
        ValueError: shapes disagree, or K is less than 1.
    """
    rays = samples.packed_info.shape[0]
    if weights.shape != samples.t_starts.shape or limit.shape != (rays,) or draws < 1:
        found = f"{tuple(weights.shape)}, {tuple(limit.shape)} and {draws}"
        raise ValueError(f"draw_scatter_points: weights [S], limit [{rays}] and draws >= 1 expected, found {found}")
    intervals = samples.t_starts, samples.t_ends, samples.packed_info
    return ScatterPoints(*torch.ops.gs_ir.scatter_points(*intervals, weights.contiguous(), limit.contiguous(), draws))


@torch.no_grad()
def scatter_rays(
    origins: Tensor,
    directions: Tensor,
    points: ScatterPoints,
    surface: Tensor,
    light: FarLight,
    *,
    strategy: Strategy,
    offset: float,
    seed: Tensor,
) -> ScatterRays:
    """One direction from every drawn point.

    The K draws of a ray are stratified, each strategy's by itself: over two uniforms and, independently, over a third
    that chooses lobes. 32 neighbouring rays share the order of the former strata, not the places in them, so that rays
    that are traced side by side point alike.

    Args:
        origins: [R, 3] of the rays.
        directions: [R, 3] unit.
        points: drawn on them.
        surface: [S, 8] of :func:`surface_rows`.
        light: the environment.
        strategy: what directions are drawn by.
        offset: length by which rays start off the surface along its normal.
        seed: [1] int64, on the device of the rest.

    Raises:
        ValueError: shapes disagree.
    """
    rays = points.rows.shape[1]
    if origins.shape != (rays, 3) or directions.shape != (rays, 3) or surface.shape[1:] != (SURFACE_WIDTH,):
        found = f"{tuple(origins.shape)}, {tuple(directions.shape)} and {tuple(surface.shape)}"
        raise ValueError(f"scatter_rays: two [{rays}, 3] and [S, {SURFACE_WIDTH}] expected, found {found}")
    where = origins.contiguous(), directions.contiguous(), points.rows, points.depth, surface.contiguous()
    return ScatterRays(*torch.ops.gs_ir.scatter_rays(*where, *light.arguments, strategy, offset, seed))


@torch.no_grad()
def gather_scattered(
    directions: Tensor,
    points: ScatterPoints,
    surface: Tensor,
    light: FarLight,
    drawn: ScatterRays,
    *,
    visible: Tensor,
    indirect: Tensor | None,
) -> Tensor:
    """What the drawn rays bring to the eye, summed over each ray's draws.

    Args:
        directions: [R, 3] unit, of the rays that the points were drawn on.
        points: their points.
        surface: [S, 8] of :func:`surface_rows`.
        light: the environment.
        drawn: the rays from the points.
        visible: [K R] bool, the environment is seen along them.
        indirect: [K R, 3] radiance from elsewhere; None: there is none.

    Returns:
        [R, 7]: radiance; the same with a diffuse lobe of albedo 1; the share of that lobe that is visible.

    Raises:
        ValueError: shapes disagree.
    """
    count = points.rows.numel()
    if visible.shape != (count,) or (indirect is not None and indirect.shape != (count, 3)):
        raise ValueError(f"gather_scattered: visible [{count}] and indirect [{count}, 3] expected")
    indirect = None if indirect is None else indirect.contiguous()
    where = directions.contiguous(), points.rows, points.share, surface.contiguous()
    found = [drawn.directions, drawn.density], visible.contiguous(), indirect
    return torch.ops.gs_ir.gather_scattered(*where, *light.arguments, *found)


@torch.no_grad()
def scatter_once(
    surface: Tensor, view: Tensor, light: FarLight, *, strategy: Strategy, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """One direction from each of N points.

    Args:
        surface: [N, 8] of :func:`surface_rows`.
        view: [N, 3] unit, to the viewer.
        light: the environment.
        strategy: what directions are drawn by.
        seed: [1] int64, on the device of the rest.

    Returns:
        directions [N, 3], zero where nothing is scattered, and the radiance [N, 3] that arrives from there and is
        scattered to the viewer if nothing is between, over the density.

    Raises:
        ValueError: shapes disagree.
    """
    if surface.shape != (len(view), SURFACE_WIDTH) or view.shape[1:] != (3,):
        found = f"{tuple(surface.shape)} and {tuple(view.shape)}"
        raise ValueError(f"scatter_once: surface [N, {SURFACE_WIDTH}] and view [N, 3] expected, found {found}")
    arguments = surface.contiguous(), view.contiguous(), *light.arguments
    return torch.ops.gs_ir.scatter_once(*arguments, strategy, seed)


@torch.no_grad()
def surface_at_hits(
    rays: Tensor, hits: Hits, directions: Tensor, *, faces: Tensor, vertices: Tensor, canonical: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where rays met a mesh that is posed B times.

    Args:
        rays: [M] int64, those of the N rays that hit something.
        hits: of all N rays.
        directions: [N, 3] unit.
        faces: [B F, 3] int64, corners among the vertices of all copies.
        vertices: [B V, 3] posed.
        canonical: [V, 3] the same vertices in canonical space.

    Returns:
        [M, 3] each: canonical point, posed point, unit normal on the side that the ray came from, direction back.

    Raises:
        ValueError: shapes disagree.
    """
    if directions.shape != (len(hits.face), 3) or canonical.shape[1:] != (3,) or faces.shape[1:] != (3,):
        raise ValueError(f"surface_at_hits: directions [{len(hits.face)}, 3] and two [*, 3] expected")
    meshes = faces.contiguous(), vertices.contiguous(), canonical.contiguous()
    return torch.ops.gs_ir.surface_at_hits(rays, hits.face, hits.barycentric, directions.contiguous(), *meshes)
