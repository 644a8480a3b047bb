"""The canonical fields together, and what they are at points of the posed world."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from implicit_branch.deformation.articulation import Articulation, CanonicalRoots, PosedSpace
from implicit_branch.deformation.non_rigid import NonRigidOffsets
from implicit_branch.fields.density import LaplaceDensity
from implicit_branch.fields.material import Material, MaterialField
from implicit_branch.fields.radiance import RadianceField
from implicit_branch.fields.sdf import SdfField, SurfaceSample
from implicit_branch.sampling.lists import EXACT, Lists

EMPTY = 1e5
"""Signed distance where no canonical point is carried: density 0."""


class SurfaceLayer(NamedTuple):
    """For each world point, the canonical point of the layer it is deepest in."""

    canonical: Tensor
    """[N, 3]"""
    jacobian: Tensor
    """[N, 3, 3] d world / d canonical."""
    sdf: Tensor
    """[N] metres; ``EMPTY`` where there is no canonical point."""
    valid: Tensor
    """[N] bool."""


class Fields(nn.Module):
    """Signed distance, density, radiance and material over canonical space, carried by the articulation."""

    def __init__(
        self,
        articulation: Articulation,
        *,
        geometry: SdfField,
        density: LaplaceDensity,
        radiance: RadianceField,
        material: MaterialField,
        non_rigid: NonRigidOffsets | None = None,
    ) -> None:
        super().__init__()
        self.articulation = articulation
        self.geometry, self.density, self.radiance, self.material = geometry, density, radiance, material
        self.non_rigid = non_rigid

    @contextmanager
    def weights_once(self) -> Iterator[None]:
        """Inside, normalised weights and rounded tables are computed once and not at every use.

        Parameters must not change.
        """
        grids = self.geometry.encoding.grid, self.radiance.encoding.grid
        with (
            parametrize.cached(),
            self.material.network.weights_once(),
            self.density.scale_once(),
            grids[0].table_once(),
            grids[1].table_once(),
        ):
            self.geometry.network.touch()
            yield

    @torch.no_grad()
    def distance(
        self, points: Tensor, frame_index: Tensor, space: PosedSpace, lists: Lists = EXACT, name: str = "roots"
    ) -> Tensor:
        """Signed distance [N] of :meth:`layer`; the roots are listed as ``name``. No gradient."""
        roots = self.articulation.to_canonical(points, frame_index, space)
        return self._distances(roots, lists.select(name, roots.valid.flatten())[0], frame_index, space).amin(1)

    @torch.no_grad()
    def layer(
        self,
        points: Tensor,
        frame_index: Tensor,
        space: PosedSpace,
        *,
        distances: bool = True,
        lists: Lists = EXACT,
    ) -> SurfaceLayer:
        """The root of smallest signed distance: the union of folded layers. No gradient.

        Args:
            points: [N, 3] world.
            frame_index: [N] int64.
            space: the posed frames.
            distances: False leaves ``sdf`` 0 where there is only one root, which saves its evaluation.
            lists: how the roots are listed.
        """
        roots = self.articulation.to_canonical(points, frame_index, space)
        wanted = roots.valid if distances else roots.valid & (roots.valid.sum(1, keepdim=True) > 1)
        rows, _ = lists.select("roots", wanted.flatten())
        sdf, nearest = self._distances(roots, rows, frame_index, space).min(1)
        chosen = nearest + torch.arange(0, roots.valid.numel(), roots.valid.shape[1], device=points.device)
        canonical, jacobian = roots.canonical.flatten(0, 1)[chosen], roots.jacobian.flatten(0, 1)[chosen]
        return SurfaceLayer(canonical, jacobian, sdf, roots.valid.any(1))

    def _distances(self, roots: CanonicalRoots, rows: Tensor, frame_index: Tensor, space: PosedSpace) -> Tensor:
        """Signed distances [N, K] of the roots ``rows`` (int64, of all N K); 0 of the others, ``EMPTY`` of no root."""
        sdf = torch.zeros_like(roots.canonical[..., 0])
        condition = None if space.condition is None else space.condition[frame_index[rows // sdf.shape[1]]]
        moved, _ = self._deform(roots.canonical.flatten(0, 1)[rows], condition)
        sdf.view(-1)[rows] = self.geometry.distance(moved)
        return torch.where(roots.valid, sdf, EMPTY)

    def surface(self, canonical: Tensor, frame_index: Tensor, space: PosedSpace) -> tuple[Tensor, SurfaceSample]:
        """The surface field at skinned canonical points [N, 3] of the frames [N].

        Returns:
            the points where the fields are looked up (moved by the non-rigid offsets, if there are any), and the
            sample, whose gradient is with respect to ``canonical``.
        """
        condition = None if space.condition is None else space.condition[frame_index]
        moved, jacobian = self._deform(canonical, condition, with_jacobian=True)
        sample = self.geometry(moved)
        if jacobian is not None:
            gradient = (jacobian.transpose(1, 2) @ sample.gradient[..., None])[..., 0]
            sample = SurfaceSample(sample.sdf, gradient, sample.features)
        return moved, sample

    def materials(self, appearance: Tensor, geometry: Tensor) -> Material:
        """Material [N] from appearance and geometry features."""
        return self.material(appearance, geometry)

    def materials_at(self, canonical: Tensor) -> Material:
        """Material [N] at canonical points [N, 3]."""
        return self.material(self.radiance.appearance(canonical), self.geometry.features(canonical))

    def _deform(
        self, canonical: Tensor, condition: Tensor | None, with_jacobian: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if self.non_rigid is None or not self.non_rigid.active:
            return canonical, None
        if not with_jacobian:
            return canonical + self.non_rigid(canonical, condition), None
        return self.non_rigid.with_jacobian(canonical, condition)
