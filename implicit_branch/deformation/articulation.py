"""Between canonical and world space: forward skinning and the search for its inverse."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from body_models import CanonicalBody
from body_models.skinning import joint_transforms, translated
from core.frames import BodyPose
from gs_ir.correspondence import SeedGrid, build_seeds, find_correspondences
from gs_ir.skinning import blend_transforms, sample_transforms
from implicit_branch.deformation.weight_volume import build_weight_volume, volume_box


@dataclass(frozen=True)
class PosedSpace:
    """What tracing rays through B posed frames needs; ``frame_index`` everywhere counts these frames."""

    transforms: Tensor
    """[B, Z, Y, X, 12] blended 3x4 transforms canonical to world at the nodes of the weight volume."""
    seeds: SeedGrid
    """Canonical starting points by world cell; cells without any are empty space."""
    condition: Tensor | None = None
    """[B, C] pose encoding, where non-rigid offsets want one."""

    @property
    def frames(self) -> int:
        """B."""
        return self.transforms.shape[0]

    def select(self, frames: Tensor) -> "PosedSpace":
        """The frames [K] (int64) as a space of their own."""
        seeds = SeedGrid(self.seeds.seeds[frames], self.seeds.counts[frames], self.seeds.boxes[frames])
        condition = None if self.condition is None else self.condition[frames]
        return PosedSpace(self.transforms[frames], seeds, condition)


class CanonicalRoots(NamedTuple):
    """Canonical points that skinning carries to the same world point: up to K layers of a folded body."""

    canonical: Tensor
    """[N, K, 3]."""
    valid: Tensor
    """[N, K] bool."""
    jacobian: Tensor
    """[N, K, 3, 3] d world / d canonical."""


class Articulation(nn.Module):
    """Linear blend skinning through a volume of weights, both ways.

    World space is posed space: bone transforms carry canonical points to the world, translation included.
    """

    weight_volume: Tensor
    box: Tensor
    rest_joints: Tensor
    rest_from_canonical: Tensor

    def __init__(
        self, *, weight_volume: Tensor, box: Tensor, rest_joints: Tensor, rest_from_canonical: Tensor, voxel: float
    ) -> None:
        """Args as made by :meth:`from_body`; ``voxel`` is the volume's edge in metres."""
        super().__init__()
        self.register_buffer("weight_volume", weight_volume)
        self.register_buffer("box", box)
        self.register_buffer("rest_joints", rest_joints)
        self.register_buffer("rest_from_canonical", rest_from_canonical)
        self.voxel = voxel

    @classmethod
    def from_body(cls, body: CanonicalBody, *, resolution: int = 128) -> "Articulation":
        """Set up for ``body``; ``resolution`` voxels along its longest axis, isotropic."""
        box = volume_box(body.vertices)
        voxel = float((box[1] - box[0]).max()) / resolution
        volume = build_weight_volume(body.vertices, body.weights, box, voxel)
        return cls(
            weight_volume=volume,
            box=box,
            rest_joints=body.rest_joints,
            rest_from_canonical=body.rest_from_canonical,
            voxel=voxel,
        )

    def bone_transforms(self, pose: BodyPose) -> Tensor:
        """Canonical to world per joint [B, 24, 4, 4] of ``pose`` (batched); differentiable in it."""
        posed_from_rest = joint_transforms(pose.axis_angles, self.rest_joints)
        return translated(posed_from_rest @ self.rest_from_canonical, pose.transl)

    def pose_space(
        self, pose: BodyPose, proxy: Tensor, *, radius: float, resolution: int, condition: Tensor | None = None
    ) -> PosedSpace:
        """Prepare the frames of ``pose`` (batched).

        Args:
            pose: [B, ...].
            proxy: [M, 3] canonical points near the surface, for example vertices of a mesh.
            radius: metres around the posed proxy that may hold surface; everything else is empty.
            resolution: cells of the seed grid along each axis.
            condition: [B, C] encoding of the poses.
        """
        transforms = blend_transforms(self.weight_volume, self.bone_transforms(pose))
        with torch.no_grad():
            posed = self._carry(proxy, transforms)
            seeds = build_seeds(posed, proxy, resolution, radius)
        return PosedSpace(transforms, seeds, condition)

    def _carry(self, points: Tensor, transforms: Tensor) -> Tensor:
        frames = torch.arange(transforms.shape[0], device=points.device)
        index = frames.repeat_interleave(points.shape[0])
        repeated = points.repeat(transforms.shape[0], 1)
        carried = apply_transforms(sample_transforms(repeated, transforms, self.box, index), repeated)
        return carried.reshape(transforms.shape[0], -1, 3)

    def to_world(self, points: Tensor, space: PosedSpace) -> Tensor:
        """World positions [B, M, 3] of canonical ``points`` [M, 3] in every frame of ``space``. No gradient."""
        with torch.no_grad():
            return self._carry(points, space.transforms)

    def to_canonical(self, points: Tensor, frame_index: Tensor, space: PosedSpace) -> CanonicalRoots:
        """Every canonical point that skinning carries to world ``points`` [N, 3]. No gradient."""
        found = find_correspondences(points, frame_index, space.seeds, space.transforms.detach(), self.box)
        return CanonicalRoots(found.canonical, found.valid, found.jacobian)

    def attach_pose(
        self, canonical: Tensor, jacobian: Tensor, frame_index: Tensor, space: PosedSpace
    ) -> tuple[Tensor, "Adjugate"]:
        """Canonical points [N, 3] and the inverses of ``jacobian`` [N, 3, 3], with their gradient to the pose.

        By the implicit function theorem d x_c / d theta = -J^-1 dT_theta(x_c)/d theta x_c, because T(x_c) x_c stays at
        the world point. The Jacobian turns with the blended transform; how the blend changes is left out. Values are
        unchanged, and where no pose requires a gradient, ``canonical`` is returned as it is.
        """
        inverse = Adjugate.of(jacobian)
        if not space.transforms.requires_grad:
            return canonical, inverse
        transforms = sample_transforms(canonical, space.transforms, self.box, frame_index)
        carried = apply_transforms(transforms, canonical)
        drift = ((carried - carried.detach())[:, None] @ inverse.cofactor)[:, 0] / inverse.determinant[:, None]
        turning = transforms[:, :, :3] - transforms[:, :, :3].detach()
        return canonical - drift, Adjugate.of(jacobian + turning)


class Adjugate(NamedTuple):
    """Inverses of N Jacobians d world / d canonical without a division or a solver: J^-1 = cofactor^T / determinant."""

    cofactor: Tensor
    """[N, 3, 3]."""
    determinant: Tensor
    """[N]."""

    @classmethod
    def of(cls, jacobian: Tensor) -> "Adjugate":
        """Of ``jacobian`` [N, 3, 3]: the columns of the cofactor matrix are cross products of its columns."""
        cofactor = torch.linalg.cross(jacobian.roll(-1, 2), jacobian.roll(1, 2), dim=1)
        return cls(cofactor, (jacobian[:, :, 0] * cofactor[:, :, 0]).sum(-1))


def apply_transforms(transforms: Tensor, points: Tensor) -> Tensor:
    """Affine ``transforms`` [N, 3, 4] of ``points`` [N, 3]."""
    return (transforms[:, :, :3] @ points[..., None])[..., 0] + transforms[:, :, 3]


def carry_normals(gradient: Tensor, inverse: Adjugate) -> Tensor:
    """Unit world normals [N, 3] of canonical distance gradients [N, 3]: J^-T n, up to the determinant."""
    carried = (inverse.cofactor @ gradient[..., None])[..., 0]
    return nn.functional.normalize(carried, dim=-1, eps=1e-12)
