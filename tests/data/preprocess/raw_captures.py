"""Raw captures written from the embedded subject, by plain numpy, h5py and OpenCV."""

import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np

from core.video import VideoWriter
from data import embedded

SUBJECT = "male-9-casual"
COUNT = 6
DISTORTION = np.array([-0.12, 0.05, 0.003, -0.002, 0.01])


def original_poses() -> dict:
    """The pose file of the embedded subject, first frames."""
    arrays = dict(np.load(embedded.load_root() / "peoplesnapshot" / embedded.SUBJECT / "poses.npz"))
    return {
        "betas": arrays["betas"],
        "thetas": arrays["thetas"][:COUNT],
        "transl": arrays["transl"][:COUNT],
    }


def write_peoplesnapshot(root: Path, original: list, spare_poses: int = 1) -> Path:
    """A raw PeopleSnapshot subject: video, camera pickle, HDF5 masks and fits (one pose too many, as published)."""
    folder = root / SUBJECT
    folder.mkdir(parents=True)
    with VideoWriter(folder / f"{SUBJECT}.mp4", fps=30) as video:
        for frame in original:
            video.append(frame.image)
    camera, poses = original[0].camera, original_poses()
    k = camera.intrinsics.double().numpy()
    write_camera(folder, {
        "camera_f": np.array([k[0, 0], k[1, 1]]), "camera_c": k[:2, 2], "camera_k": np.zeros(5),
        "camera_rt": np.zeros(3), "camera_t": np.zeros(3), "height": camera.height, "width": camera.width,
    })  # fmt: skip
    with h5py.File(folder / "masks.hdf5", "w") as file:
        file["masks"] = np.stack([frame.mask.numpy().astype(np.uint8) for frame in original])
    spare = np.ones((spare_poses, 72), np.float32)
    with h5py.File(folder / "reconstructed_poses.hdf5", "w") as file:
        file["betas"] = poses["betas"]
        file["pose"] = np.concatenate([poses["thetas"], spare])
        file["trans"] = np.concatenate([poses["transl"], spare[:, :3]])
    return folder


def write_camera(folder: Path, entries: dict) -> None:
    """A camera.pkl as Python 2 wrote it."""
    (folder / "camera.pkl").write_bytes(pickle.dumps(entries, protocol=2))


def change_camera(folder: Path, **entries) -> None:
    """Replace entries of camera.pkl; None removes one."""
    stored = pickle.loads((folder / "camera.pkl").read_bytes()) | entries
    write_camera(folder, {name: value for name, value in stored.items() if value is not None})


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures in [0, 1]."""
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def read_rgb(path: Path) -> np.ndarray:
    """A PNG file in [0, 1]."""
    return cv2.imread(str(path))[..., ::-1] / 255.0
