"""What light arrives at surface points: visibility of the environment, and light that the body itself returns."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from core import brdf
from gs_ir.scattering import FarLight, Strategy, scatter_once, surface_at_hits, surface_rows
from implicit_branch.deformation.proxy_mesh import ProxyTracer
from implicit_branch.fields.fields import Fields
from implicit_branch.fields.material import Material
from implicit_branch.rendering.emitters import Emitter
from implicit_branch.rendering.scatterers import multiple_importance
from implicit_branch.sampling.lists import EXACT, Lists

OFFSET = 0.004
"""Metres by which ray origins leave the surface along its normal: the proxy's triangles deviate by less."""


class SurfaceHit(NamedTuple):
    """Where secondary rays meet the body."""

    canonical: Tensor
    """[N, 3]"""
    world: Tensor
    """[N, 3]"""
    normal: Tensor
    """[N, 3] unit, world, towards where the ray came from."""
    view_dir: Tensor
    """[N, 3] unit, world, back along the ray."""
    frame: Tensor
    """[N] int64."""


class Bounce(Protocol):
    """Radiance that the body sends along secondary rays."""

    def __call__(self, hit: SurfaceHit) -> Tensor:
        """Linear radiance [N, 3] leaving ``hit`` towards ``view_dir``."""
        ...


class LearnedBounce:
    """The radiance field itself: right under the light it was trained with, and only there."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def __call__(self, hit: SurfaceHit) -> Tensor:
        """One query per hit."""
        appearance = self.fields.radiance.appearance(hit.canonical)
        geometry = self.fields.geometry.features(hit.canonical)
        return self.fields.radiance(appearance, geometry, hit.normal, hit.view_dir)


class RelitBounce:
    """The hit point shaded under another light: one direction with its shadow per hit.

    Directions come from the light and the BRDF alike: without regard to the light, few of them would meet a sun, and
    those as single bright pixels.
    """

    def __init__(
        self,
        fields: Fields,
        light: Emitter,
        tracer: ProxyTracer,
        *,
        near: float,
        far: float,
        generator: torch.Generator | None = None,
    ) -> None:
        self.fields, self.light, self.tracer = fields, light, tracer
        self.near, self.far, self.generator = near, far, generator

    def __call__(self, hit: SurfaceHit) -> Tensor:
        """Single-scattered light; what is reflected more often is left out."""
        material, light = self.fields.materials_at(hit.canonical), self.light.far_light()
        draw = self._by_operators if light is None else partial(self._by_kernel, light)
        direction, scattered = draw(hit, material)
        origin = torch.add(hit.world, hit.normal, alpha=OFFSET)
        visible = self.tracer.visible(origin, direction, hit.frame, near=self.near, far=self.far)
        return scattered * visible[:, None]

    def _by_kernel(self, light: FarLight, hit: SurfaceHit, material: Material) -> tuple[Tensor, Tensor]:
        """A direction [N, 3] of each hit and the radiance [N, 3] scattered if nothing is between."""
        surface, seed = surface_rows(hit.normal, *material), draw_seed(self.generator, hit.world.device)
        return scatter_once(surface, hit.view_dir, light, strategy=Strategy.MIXTURE, seed=seed)

    def _by_operators(self, hit: SurfaceHit, material: Material) -> tuple[Tensor, Tensor]:
        """The same for lights that kernels cannot read."""
        shape = (len(hit.world), 3)
        uniforms = torch.rand(shape, generator=self.generator, device=hit.world.device, dtype=hit.world.dtype)
        direction, density = multiple_importance(hit.normal, hit.view_dir, material, self.light, uniforms)
        scattered = brdf.eval_cosine(hit.normal, hit.view_dir, direction, *material)
        return direction, scattered * self.light.radiance(direction) / density.clamp_min(1e-6)[:, None]


def draw_seed(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """[1] int64 on ``device``, a seed for the kernels' own random numbers."""
    return torch.randint(2**62, (1,), generator=generator, device=device)


@torch.no_grad()
def trace(
    tracer: ProxyTracer,
    origins: Tensor,
    directions: Tensor,
    frame_index: Tensor,
    *,
    near: float,
    far: float,
    bounce: Bounce | Callable[[SurfaceHit], Tensor] | None,
    lists: Lists = EXACT,
) -> tuple[Tensor, Tensor | None]:
    """Follow secondary rays to the environment or the body. No gradient.

    Args:
        tracer: the posed proxy meshes.
        origins: [N, 3] world, already off the surface.
        directions: [N, 3] unit.
        frame_index: [N] int64, frame of each ray.
        near: metres; closer hits are ignored.
        far: metres; farther ones too.
        bounce: radiance of the body; None traces visibility only.
        lists: how the hits are listed.

    Returns:
        visible [N] bool, and the radiance [N, 3] from the body (None without ``bounce``).
    """
    if bounce is None:
        return tracer.visible(origins, directions, frame_index, near=near, far=far), None
    hits = tracer.first_hit(origins, directions, frame_index, near=near, far=far)
    rows, used = lists.select("hits", hits.face >= 0)
    mesh = {"faces": tracer.faces, "vertices": tracer.vertices.flatten(0, 1), "canonical": tracer.mesh.vertices}
    # Of a row that is unused, a place of no meaning.
    arriving = bounce(SurfaceHit(*surface_at_hits(rows, hits, directions, **mesh), frame_index[rows]))
    if used is not None:
        arriving = arriving * used[:, None]
    return hits.face < 0, torch.zeros_like(origins).index_add_(0, rows, arriving)
