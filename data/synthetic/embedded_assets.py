"""Rebuilds the derived assets of ``data/embedded``: motions, distillation poses, the PeopleSnapshot copy, small lights.

The RANA-layout subject itself comes from ``data.synthetic.generate``; everything here follows from it and from seeds.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from body_models import load_body
from body_models.skinning import rest_joints
from core.files import read_array, read_arrays, write_npz_atomically
from core.images import read_hdr, read_image, resize_image, write_hdr
from data import embedded
from data.camera_files import read_cameras
from data.pose_files import read_poses
from data.synthetic.layouts import Capture, Pictures, write_motion, write_peoplesnapshot_tables, write_pictures
from data.synthetic.motion import dance, facing_camera, turntable, walk
from data.synthetic.pose_sets import distillation_poses

logger = logging.getLogger(__name__)

MOTION_FRAMES = {"turntable": 60, "walk": 120, "dance": 120}
VARIED_POSES = 54
HELD_OUT_EVERY = 6
"""PeopleSnapshot layout: every sixth training frame is kept for testing."""
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
    betas = read_poses(load_root / "rana" / "train_p1" / embedded.SUBJECT / "poses.npz").known_betas
    joints = rest_joints(load_body("embedded", embedded.GENDER), betas).numpy()
    poses = distillation_poses(VARIED_POSES, joints, SEED)
    write_motion(load_root / "distill_pose" / embedded.DISTILLATION_POSES, facing_camera(poses))


def write_peoplesnapshot_copy(load_root: Path) -> None:
    """Write ``peoplesnapshot/<subject>`` from the RANA training frames: the held-out frames come last."""
    source = load_root / "rana" / "train_p1" / embedded.SUBJECT
    target = load_root / "peoplesnapshot" / embedded.SUBJECT
    sequence = read_poses(source / "poses.npz")
    count = len(sequence)
    held_out = np.arange(HELD_OUT_EVERY - 1, count, HELD_OUT_EVERY)
    order = np.concatenate([np.setdiff1d(np.arange(count), held_out), held_out])
    for index, frame in enumerate(order):
        image = read_image(source / "images" / f"image_{frame:04d}.png").numpy()
        mask = read_array(source / "masks" / f"mask_{frame:04d}.npy")
        write_pictures(target, index, Pictures(image, mask))
    pose = sequence.pose[torch.as_tensor(order)]
    capture = Capture(read_cameras(source / "cameras.json").camera(0), pose.axis_angles.numpy(), pose.transl.numpy(),
                      sequence.known_betas.numpy(), embedded.GENDER)  # fmt: skip
    write_peoplesnapshot_tables(target, capture, train=count - len(held_out))


def write_small_probes(source: Path, target: Path) -> None:
    """Write the light probes of ``source`` at 256 x 128 by averaging over areas; the mean radiance stays."""
    for path in sorted(source.glob("*.hdr")):
        small = resize_image(read_hdr(path), *PROBE_SIZE)
        write_hdr(target / path.name, small * RGBE_LOSS)


def record_gender(load_root: Path) -> None:
    """Add the gender to the pose files of the RANA layout, which readers compare with what they are told."""
    for path in sorted((load_root / "rana").glob("*/*/poses.npz")):
        arrays = read_arrays(path)
        write_npz_atomically(path, {**arrays, "gender": np.array(embedded.GENDER)})


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
    write_peoplesnapshot_copy(load_root)
    if probes is not None:
        write_small_probes(probes, embedded.hdris())
    logger.info("rebuilt %s", load_root)


if __name__ == "__main__":
    main()
