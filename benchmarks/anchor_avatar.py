"""The anchor workload as an avatar: skeleton, skinning, materials and occlusion probes for frames."""

import numpy as np
import torch
import trimesh
from torch import Tensor

from benchmarks.anchor_cloud import (
    CAPSULE_END,
    CAPSULE_JOINT,
    CAPSULE_RADIUS,
    CAPSULE_START,
    PARENTS,
    cloud,
    joints,
    pose,
    vertices,
)
from body_models.body import BodyModel
from body_models.canonical import CanonicalBody
from body_models.parts import PART_OF_JOINT
from core.frames import BodyPose
from core.rotation import matrix_to_quaternion
from explicit_branch.avatar import Avatar, AvatarRecord
from explicit_branch.rendering.probe_baking import bake_probes
from explicit_branch.rendering.probes import OcclusionProbes
from explicit_branch.surfels import SurfaceMaterial, Surfels, raw_attributes
from gs_ir.cubemap import PrefilteredLight, equirect_to_cubemap
from gs_ir.prefiltering import prefilter


def avatar(surfels: int, device: str, *, probes: bool = True) -> Avatar:
    """The cloud of ``surfels`` as an avatar with baked probes, on ``device``."""
    scene = cloud(surfels)
    material = SurfaceMaterial(scene.features[:, :3], scene.features[:, 3], scene.features[:, 4] * 0.3)
    raw = raw_attributes(
        scene.centers,
        matrix_to_quaternion(scene.rotations),
        scene.scales,
        opacity=0.95,
        feature_dim=1,
        material=material,
    )
    raw["opacity_logits"] = torch.logit(scene.opacities)
    record = AvatarRecord("anchor", "male", [0.0] * 10, "A_pose", frames=1)
    made = Avatar(Surfels(raw).to(device), canonical_body().to(device), record).requires_grad_(False).eval()
    if probes:
        points, faces, joint = (x.to(device) for x in mesh())
        volumes = bake_probes(points, faces, joint, torch.tensor(PART_OF_JOINT, device=device))
        made.probes = OcclusionProbes(volumes)
    return made


def canonical_body() -> CanonicalBody:
    """A body whose canonical pose is the anchor's: 6,890 points on the surface, and the joints as 24 more."""
    points, weights = vertices()
    centers = joints()
    count = len(points)
    regressor = torch.zeros(24, count + 24)
    regressor[:, count:] = torch.eye(24)
    body = BodyModel(
        v_template=torch.cat([points, centers]),
        joint_regressor=regressor,
        weights=torch.cat([weights, torch.eye(24)]),
        faces=torch.arange(count - count % 3).reshape(-1, 3),
        parents=torch.tensor(PARENTS),
        shapedirs=torch.zeros(count + 24, 3, 10),
        posedirs=torch.zeros(count + 24, 3, 0),
        gender="male",
    )
    return CanonicalBody(body, torch.zeros(10), (0.0, 0.0, 0.0, 0.0))


def mesh() -> tuple[Tensor, Tensor, Tensor]:
    """The capsules as one mesh: vertices [V, 3], faces [F, 3], joint of each vertex [V]."""
    points, faces, joint, count = [], [], [], 0
    for capsule, start, end, radius in zip(CAPSULE_JOINT, CAPSULE_START, CAPSULE_END, CAPSULE_RADIUS):
        length = float(np.linalg.norm(end - start))
        shape = trimesh.creation.capsule(height=length, radius=float(radius), count=[16, 16])
        turn = trimesh.geometry.align_vectors([0, 0, 1], (end - start) / length)
        points.append((shape.vertices - shape.bounds.mean(0)) @ turn[:3, :3].T + (start + end) / 2)
        faces.append(shape.faces + count)
        joint.append(np.full(len(shape.vertices), capsule))
        count += len(shape.vertices)
    stacked = (np.concatenate(points), np.concatenate(faces), np.concatenate(joint))
    return tuple(torch.from_numpy(x.astype(t)) for x, t in zip(stacked, (np.float32, np.int64, np.int64)))  # type: ignore[return-value]


def body_pose(seed: int) -> BodyPose:
    """The anchor's random pose."""
    angles = pose(seed)
    return BodyPose(angles[0], angles[1:].reshape(-1), torch.zeros(3))


def panorama(height: int = 1024) -> Tensor:
    """[H, 2 H, 3] linear radiance: a sky brighter above, with a small sun."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(2 * height) + 0.5) / (2 * height)
    sky = (1.2 - rows)[:, None, None] * torch.tensor([0.5, 0.7, 1.0])
    sun = torch.exp(-((rows[:, None] - 0.3) ** 2 + (columns[None] - 0.7) ** 2) * 4000)[..., None] * 200
    return (sky + sun).contiguous()


def light(device: str, resolution: int = 256) -> PrefilteredLight:
    """The panorama prefiltered."""
    return prefilter(equirect_to_cubemap(panorama().to(device), resolution))
