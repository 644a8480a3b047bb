"""Directional occlusion of surfels: the shares of a light that reach their diffuse and specular lobes."""

import torch
from torch import Tensor

from core.errors import InputError
from core.frames import BodyPose
from explicit_branch.avatar import Avatar
from explicit_branch.deformation.deformation import PosedSurfels
from explicit_branch.rendering.changes import same, versions
from explicit_branch.rendering.shading import ShadingOptions
from gs_ir.cubemap import PrefilteredLight
from gs_ir.directional import lobe_visibility, own_masks
from gs_ir.probes import ProbeVolumes
from gs_ir.reference.shading import dominant_direction


class DirectionalOcclusion:
    """Shares of light for one avatar; what does not depend on the pose is kept until its surfels or probes change."""

    def __init__(self, avatar: Avatar) -> None:
        self.avatar = avatar
        self._own_masks: Tensor | None = None
        self._kept_for: tuple | None = None

    @torch.no_grad()
    def shares(
        self,
        posed: PosedSurfels,
        pose: BodyPose,
        *,
        light: PrefilteredLight,
        options: ShadingOptions,
    ) -> Tensor:
        """Shares [N, 7] of a uniform sky, of diffuse light (rgb) and of specular light (rgb). No gradient.

        Args:
            posed: the surfels under ``pose``, as the camera sees them.
            pose: one pose, no batch.
            light: the environment.
            options: rules of shading; they say where the specular lobe points.

        Raises:
            InputError: the avatar's probes know ambient visibility only.
        """
        avatar, deformation = self.avatar, self.avatar.deformation
        assert avatar.probes is not None
        cells = light.cells()
        roughness, normals = avatar.surfels.material.roughness, posed.normals_to_viewer
        return lobe_visibility(
            avatar.probes.volumes,
            posed.centers,
            normals,
            own_part=deformation.parts(avatar.surfels),
            own_masks=self._masks(avatar.probes.volumes),
            part_from_world=deformation.part_from_world(pose),
            light=(cells.directions, cells.energy),
            lobe_directions=lobe_directions(normals, posed.to_viewer, roughness, options.lobe_direction),
            roughness=roughness,
        )

    def _masks(self, volumes: ProbeVolumes) -> Tensor:
        """Own masks [N, 2] of the surfels."""
        require_masks(volumes)
        positions = self.avatar.surfels.positions
        key = (volumes, *versions(positions))
        if not same(key, self._kept_for):
            self._own_masks, self._kept_for = own_masks(volumes, positions), key
        assert self._own_masks is not None
        return self._own_masks


def lobe_directions(normals: Tensor, to_viewer: Tensor, roughness: Tensor, rule: str) -> Tensor:
    """Where the specular lobe [N, 3] points, by ``ShadingOptions.lobe_direction``."""
    cosine = (normals * to_viewer).sum(-1, keepdim=True).clamp_min(0)
    mirrored = torch.addcmul(-to_viewer, cosine, normals, value=2)
    return dominant_direction(normals, mirrored, roughness) if rule == "dominant" else mirrored


def require_masks(volumes: ProbeVolumes) -> None:
    """Refuse probes that were baked without masks.

    Raises:
        InputError: they were.
    """
    if volumes.masks is None:
        raise InputError(
            "occlusion probes",
            found="ambient visibility only, as earlier versions baked it",
            expected="masks of directions, for occlusion=directional",
            next_step="Bake the probes again (explicit_branch.build_occ=true), or use occlusion=ambient.",
        )
