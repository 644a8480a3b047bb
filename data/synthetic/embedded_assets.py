"""Rebuilds the derived assets of ``data/embedded``: motions, distillation poses, the PeopleSnapshot copy, small lights.

The RANA-layout subject itself comes from ``data.synthetic.generate``; everything here follows from it and from seeds.
"""

import argparse
import logging
from pathlib import Path

from body_models import load_body
from body_models.skinning import rest_joints
from core.images import read_hdr, resize_image, write_hdr
from data import embedded
from data.pose_files import read_poses
from data.synthetic.capture import TRAIN_SPLIT, copy_as_peoplesnapshot
from data.synthetic.layouts import write_motion
from data.synthetic.motion import dance, facing_camera, turntable, walk
from data.synthetic.pose_sets import distillation_poses

logger = logging.getLogger(__name__)

MOTION_FRAMES = {"turntable": 60, "walk": 120, "dance": 120}
VARIED_POSES = 54
PROBE_SIZE = (256, 128)
SEED = 3
RGBE_LOSS = 1.00308
"""The .hdr encoder rounds down; this keeps the mean radiance."""


def write_motions(load_root: Path) -> None:
    """Write ``animation/{turntable, walk, dance}``."""
    frames = MOTION_FRAMES
    motions = {"turntable": turntable(frames["turntable"], seed=SEED), "walk": walk(frames["walk"]),
               "dance": dance(frames["dance"], seed=SEED)}  # fmt: skip
    for name, poses in motions.items():
        write_motion(load_root / "animation" / name, facing_camera(poses))


def write_distillation_poses(load_root: Path) -> None:
    """Write ``distill_pose/turntable_and_varied`` for the embedded subject's proportions."""
    betas = read_poses(load_root / "rana" / TRAIN_SPLIT / embedded.SUBJECT / "poses.npz").known_betas
    joints = rest_joints(load_body("embedded", embedded.GENDER), betas).numpy()
    poses = distillation_poses(VARIED_POSES, joints, SEED)
    write_motion(load_root / "distill_pose" / embedded.DISTILLATION_POSES, facing_camera(poses))


def write_peoplesnapshot(load_root: Path) -> None:
    """Write ``peoplesnapshot/<subject>`` from the RANA training frames."""
    source = load_root / "rana" / TRAIN_SPLIT / embedded.SUBJECT
    copy_as_peoplesnapshot(source, load_root / "peoplesnapshot" / embedded.SUBJECT, embedded.GENDER)


def write_small_probes(source: Path, target: Path) -> None:
    """Write the light probes of ``source`` at 256 x 128 by averaging over areas; the mean radiance stays."""
    for path in sorted(source.glob("*.hdr")):
        small = resize_image(read_hdr(path), *PROBE_SIZE)
        write_hdr(target / path.name, small * RGBE_LOSS)


def main() -> None:
    """Rebuild everything below ``data/embedded`` that is not rendered."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--probes", type=Path, help="folder of full-size light probes to shrink into data/embedded/hdri"
    )
    probes = parser.parse_args().probes
    load_root = embedded.load_root()
    write_motions(load_root)
    write_distillation_poses(load_root)
    write_peoplesnapshot(load_root)
    if probes is not None:
        write_small_probes(probes, embedded.hdris())
    logger.info("rebuilt %s", load_root)


if __name__ == "__main__":
    main()
