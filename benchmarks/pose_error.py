"""How far poses are wrong on the surface: ``python -m benchmarks.pose_error --teacher CKPT --poses NPZ --truth NPZ``.

Joint angles say little: a forearm's twist is invisible, and errors of a chain of joints cancel or add up. So points of
the teacher's surface are carried by the poses that it uses (those of ``--poses``, the training's, turned by its
residuals) and by the true ones, and their distances are given in millimetres. A shape can absorb what all frames have
in common; ``varying`` is what is left after each point's mean displacement over the frames, taken in canonical space.
"""

import argparse
import json
import logging
from pathlib import Path

import torch
from torch import Tensor

from core.files import read_arrays
from core.frames import BodyPose
from gs_ir.skinning import blend_transforms, sample_transforms
from implicit_branch.deformation.articulation import Articulation, apply_transforms
from implicit_branch.teacher import Teacher, load_teacher

_log = logging.getLogger(__name__)
POINTS = 2000


@torch.no_grad()
def surface_errors(articulation: Articulation, points: Tensor, estimated: BodyPose, true: BodyPose) -> dict[str, float]:
    """Rms distances in millimetres between canonical ``points`` [M, 3] in the frames of two batched poses.

    Returns:
        ``total``, ``shared`` (what the mean displacement over frames of each point explains) and ``varying``.
    """
    moved, rotations = [], []
    index = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for frame in range(len(true.transl)):
        both = [
            sample_transforms(
                points,
                blend_transforms(articulation.weight_volume, articulation.bone_transforms(pose[frame : frame + 1])),
                articulation.box,
                index,
            )
            for pose in (estimated, true)
        ]
        moved.append(apply_transforms(both[0], points) - apply_transforms(both[1], points))
        rotations.append(both[1][:, :, :3])
    world = torch.stack(moved)
    canonical = torch.linalg.solve(torch.stack(rotations), world[..., None])[..., 0]
    varying = canonical - canonical.mean(0)
    parts = {"total": world, "shared": canonical.mean(0), "varying": varying}
    return {name: 1000 * float(part.square().sum(-1).mean().sqrt()) for name, part in parts.items()}


def refined(teacher: Teacher, poses: BodyPose) -> BodyPose:
    """The training ``poses`` as ``teacher`` uses them."""
    return teacher.residuals(poses, torch.arange(len(poses.transl), device=poses.transl.device))


def surface_points(teacher: Teacher) -> Tensor:
    """About ``POINTS`` points of the canonical surface."""
    vertices = teacher.proxy.vertices
    return vertices[:: max(1, len(vertices) // POINTS)]


def read_poses(path: Path, device: torch.device | str) -> BodyPose:
    """The poses of a capture in the RANA layout."""
    arrays = read_arrays(path)
    names = ("global_orient", "body_pose", "transl")
    return BodyPose(*(torch.from_numpy(arrays[name]).float().to(device) for name in names))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint")
    parser.add_argument("--poses", type=Path, required=True, help="poses.npz that it was trained with")
    parser.add_argument("--truth", type=Path, required=True, help="true poses.npz")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    teacher = load_teacher(given.teacher, "cpu")
    poses, truth = read_poses(given.poses, "cpu"), read_poses(given.truth, "cpu")
    found = {
        name: surface_errors(teacher.fields.articulation, surface_points(teacher), pose, truth)
        for name, pose in {"given": poses, "refined": refined(teacher, poses)}.items()
    }
    _log.info("%s", json.dumps(found))


if __name__ == "__main__":
    main()
