"""Raw captures written from the embedded subject, by plain numpy, h5py and OpenCV."""

import json
import pickle
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch

from body_models import load_body
from body_models.skinning import rest_joints
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


def write_rana(root: Path, split: str, scale: float = 1.7, gender: str = "male") -> Path:
    """A raw RANA sequence from the embedded one: the pelvis in a scaled scene, before a camera at rest."""
    source = embedded.load_root() / "rana" / split / embedded.SUBJECT
    folder = root / split / "subject_09"
    folder.mkdir(parents=True)
    poses, camera = dict(np.load(source / "poses.npz")), json.loads((source / "cameras.json").read_text())
    body = load_body(None, gender)
    pelvis = rest_joints(body, torch.from_numpy(poses["betas"][0]))[0].numpy()
    focal, size = camera["intrinsic"][0][0], camera["width"]
    for i in range(COUNT):
        name = f"frame_{10 + i:06d}"
        body_pose = poses["body_pose"][i].copy()
        body_pose[57:] = 0.3  # RANA's own hands, which the published data zero
        annotation = {
            "skeleton_0": {
                "smpl_data": {
                    "gender": gender,
                    "K": camera["intrinsic"],
                    "betas": poses["betas"].tolist(),
                    "global_orient": poses["global_orient"][i].tolist(),
                    "pose": body_pose.tolist(),
                    "global_trans": (scale * (poses["transl"][i].astype(float) + pelvis)).tolist(),
                    "scale": scale,
                }
            }
        }
        if split == "test":
            annotation["camera"] = {"yaw": 0, "fov": 2 * np.arctan(size / 2 / focal)}
            annotation["bg_file"] = json.loads((source / "hdri_files.json").read_text())[i]
        (folder / f"{name}.json").write_text(json.dumps(annotation))
        for kind, ending in (("images/image", ""), ("albedos/albedo", "_albedo"), ("normals/normal", "_normals")):
            shutil.copy(source / f"{kind}_{i:04d}.png", folder / f"{name}{ending}.png")
        semantic = np.full((size, size, 4), 77, np.uint8)
        semantic[..., 3] = np.load(source / "masks" / f"mask_{i:04d}.npy") * 255
        cv2.imwrite(str(folder / f"{name}_semantic.png"), semantic)
    return folder


def edit_json(path: Path, change) -> None:
    """Rewrite a JSON file after ``change`` has altered its content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
