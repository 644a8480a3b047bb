"""Writers of the RANA, PeopleSnapshot and motion layouts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.camera import Camera
from core.files import replacing, write_json_atomically, write_npz_atomically
from core.images import write_image

MOTION_HEIGHT = 1080
MOTION_FOCAL = 2000.0
MOTION_TRANSLATION = (0.0, 0.0, 5.0)


@dataclass(frozen=True)
class Pictures:
    """What is rendered of one frame."""

    image: np.ndarray
    """[H, W, 3] sRGB in [0, 1], over white."""
    mask: np.ndarray
    """[H, W] uint8, 1 = subject."""
    albedo: np.ndarray | None = None
    """[H, W, 3] linear in [0, 1]."""
    normal: np.ndarray | None = None
    """[H, W, 3] (n + 1) / 2 in OpenGL camera axes; grey where there is none."""
    roughness: np.ndarray | None = None
    """[H, W] perceptual, in [0, 1]."""


@dataclass(frozen=True)
class Capture:
    """The tables of one sequence: who, how posed, seen by which camera."""

    camera: Camera
    poses: np.ndarray
    """[T, 24, 3] axis-angle in world axes, radians."""
    transl: np.ndarray
    """[T, 3] metres."""
    betas: np.ndarray
    """[10]."""
    gender: str

    def pose_arrays(self, rows: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """Pose file entries of the frames ``rows``, in the notation of RANA and of the refined PeopleSnapshot poses."""
        flat = self.poses.reshape(len(self.poses), -1).astype(np.float32)[rows]
        return {
            "betas": self.betas.astype(np.float32)[None],
            "global_orient": flat[:, :3],
            "body_pose": flat[:, 3:],
            "transl": self.transl.astype(np.float32)[rows],
            "gender": np.array(self.gender),
        }


def picture_files(folder: Path, index: int, pictures: Pictures) -> dict[Path, np.ndarray]:
    """Where the pictures of frame ``index`` go, in both layouts."""
    files = {
        folder / "images" / f"image_{index:04d}.png": pictures.image,
        folder / "masks" / f"mask_{index:04d}.npy": pictures.mask,
    }
    extra = {"albedo": ("albedos", pictures.albedo), "normal": ("normals", pictures.normal),
             "roughness": ("roughness", pictures.roughness)}  # fmt: skip
    for name, (subfolder, values) in extra.items():
        if values is not None:
            files[folder / subfolder / f"{name}_{index:04d}.png"] = values
    return files


def write_pictures(folder: str | Path, index: int, pictures: Pictures) -> list[Path]:
    """Write one frame below ``folder``, each file whole or not at all; returns the files."""
    files = picture_files(Path(folder), index, pictures)
    for path, values in files.items():
        if path.suffix == ".npy":
            with replacing(path) as temporary:
                np.save(temporary, values.astype(np.uint8))
        else:
            write_image(path, torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
    return list(files)


def write_rana_tables(folder: str | Path, capture: Capture, hdris: list[str] | None = None) -> None:
    """Write ``cameras.json``, ``poses.npz`` and, for relit frames, ``hdri_files.json`` (a name for each frame)."""
    folder, camera = Path(folder), capture.camera
    fields = {
        "intrinsic": camera.intrinsics.tolist(),
        "extrinsic": camera.camera_from_world.tolist(),
        "distortion": [0, 0, 0, 0],
        "height": camera.height,
        "width": camera.width,
    }
    write_json_atomically(folder / "cameras.json", fields)
    write_npz_atomically(folder / "poses.npz", capture.pose_arrays())
    if hdris is not None:
        write_json_atomically(folder / "hdri_files.json", hdris)


def write_peoplesnapshot_tables(folder: str | Path, capture: Capture, train: int) -> None:
    """Write ``cameras.npz``, ``poses.npz`` and ``poses/anim_nerf_{train, val, test}.npz``.

    The first ``train`` frames are for training, the rest is the test split, and its first frame the validation split.
    """
    folder = Path(folder)
    _write_camera(folder / "cameras.npz", capture.camera)
    raw = capture.pose_arrays()
    fits = {"betas": raw["betas"][0], "thetas": np.concatenate([raw["global_orient"], raw["body_pose"]], 1),
            "transl": raw["transl"], "gender": raw["gender"]}  # fmt: skip
    write_npz_atomically(folder / "poses.npz", fits)
    splits = {"train": slice(0, train), "val": slice(train, train + 1), "test": slice(train, None)}
    for name, rows in splits.items():
        write_npz_atomically(folder / "poses" / f"anim_nerf_{name}.npz", capture.pose_arrays(rows))


def write_motion(folder: str | Path, poses: np.ndarray) -> None:
    """Write a motion: ``poses.npz`` with ``poses`` [T, 24, 3] (world, radians) on the spot, and ``cameras.npz``."""
    folder = Path(folder)
    flat = poses.reshape(len(poses), -1).astype(np.float32)
    trans = np.tile(np.array(MOTION_TRANSLATION, np.float32), (len(poses), 1))
    write_npz_atomically(folder / "poses.npz", {"poses": flat, "trans": trans})
    _write_camera(folder / "cameras.npz", centred_camera(MOTION_HEIGHT, MOTION_FOCAL))


def centred_camera(size: int, focal: float) -> Camera:
    """A square camera at the world's origin that looks along +z; ``focal`` in pixels."""
    centre = size / 2
    intrinsics = torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]], dtype=torch.float64)
    return Camera(intrinsics, torch.eye(4, dtype=torch.float64), size, size)


def _write_camera(path: Path, camera: Camera) -> None:
    fields = {
        "intrinsic": camera.intrinsics.double().numpy(),
        "extrinsic": camera.camera_from_world.double().numpy(),
        "height": np.array(camera.height),
        "width": np.array(camera.width),
    }
    write_npz_atomically(path, fields)
