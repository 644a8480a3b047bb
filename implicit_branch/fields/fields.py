"""The canonical fields together, and what they are at points of the posed world."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from implicit_branch.deformation.articulation import Articulation, PosedSpace
from implicit_branch.deformation.non_rigid import NonRigidOffsets
from implicit_branch.fields.density import LaplaceDensity
from implicit_branch.fields.material import Material, MaterialField
from implicit_branch.fields.radiance import RadianceField
from implicit_branch.fields.sdf import SdfField, SurfaceSample

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

    def where_valid(self) -> "SurfaceLayer":
        """Only the valid points."""
        return SurfaceLayer(*(values[self.valid] for values in self))


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

    @torch.no_grad()
    def layer(self, points: Tensor, frame_index: Tensor, space: PosedSpace, *, distances: bool = True) -> SurfaceLayer:
        """The root of smallest signed distance: the union of folded layers. No gradient.

        Args:
            points: [N, 3] world.
            frame_index: [N] int64.
            space: the posed frames.
            distances: False leaves ``sdf`` 0 where there is only one root, which saves its evaluation.
        """
        roots = self.articulation.to_canonical(points, frame_index, space)
        wanted = roots.valid if distances else roots.valid & (roots.valid.sum(1, keepdim=True) > 1)
        rows, layers = wanted.nonzero(as_tuple=True)
        sdf = torch.where(roots.valid, 0.0, EMPTY).to(points.dtype)
        moved, _ = self._deform(roots.canonical[rows, layers], frame_index[rows], space)
        sdf[rows, layers] = self.geometry.distance(moved)
        nearest = sdf.argmin(1)
        every = torch.arange(len(points), device=points.device)
        return SurfaceLayer(
            roots.canonical[every, nearest], roots.jacobian[every, nearest], sdf[every, nearest], roots.valid.any(1)
        )

    def surface(self, canonical: Tensor, frame_index: Tensor, space: PosedSpace) -> tuple[Tensor, SurfaceSample]:
        """The surface field at skinned canonical points [N, 3] of the frames [N].

        Returns:
            the points where the fields are looked up (moved by the non-rigid offsets, if there are any), and the
            sample, whose gradient is with respect to ``canonical``.
        """
        moved, jacobian = self._deform(canonical, frame_index, space, with_jacobian=True)
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
        self, canonical: Tensor, frame_index: Tensor, space: PosedSpace, with_jacobian: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if self.non_rigid is None or not self.non_rigid.active:
            return canonical, None
        condition = None if space.condition is None else space.condition[frame_index]
        if not with_jacobian:
            return canonical + self.non_rigid(canonical, condition), None
        return self.non_rigid.with_jacobian(canonical, condition)
