"""SyntheticHuman and ZJU-MoCap folders written from the embedded subject, in a world that turns from frame to frame."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from body_models import load_body
from body_models.skinning import rest_joints
from data import embedded

SUBJECT = {"synthetichuman": "jody", "zju-mocap": "CoreView_377"}
CAMERA = {"synthetichuman": "00", "zju-mocap": "Camera_B1"}
COUNT = 8


def source() -> Path:
    """The embedded relit sequence."""
    return embedded.load_root() / "rana/test" / embedded.SUBJECT


def world_motions(moving: bool) -> np.ndarray:
    """[N, 4, 4] rigid motions of the world, a different one for each frame."""
    motions = np.tile(np.eye(4), (COUNT, 1, 1))
    if moving:
        angles = np.linspace(0.4, 2.5, COUNT)[:, None] * [[0.3, 1.0, 0.2]]
        motions[:, :3, :3] = Rotation.from_rotvec(angles).as_matrix()
        motions[:, :3, 3] = np.linspace(0, 2, COUNT)[:, None] * [[1.0, 0.3, -0.5]]
    return motions


def write(root: Path, layout: str, moving: bool = True) -> Path:
    """A subject below ``root``: pictures as the embedded ones, bodies and extrinsics moved together."""
    folder, name = root / layout / SUBJECT[layout], CAMERA[layout]
    folder.mkdir(parents=True)
    motions = world_motions(moving)
    camera = json.loads((source() / "cameras.json").read_text())
    camera |= {"extrinsic": (np.array(camera["extrinsic"]) @ np.linalg.inv(motions)).tolist(), "distortion": [0] * 5}
    (folder / "cameras.json").write_text(json.dumps({"all_cam_names": [name], name: camera}))
    poses = dict(np.load(source() / "poses.npz"))
    pelvis = rest_joints(load_body(None, embedded.GENDER), torch.from_numpy(poses["betas"][0]))[0].double().numpy()
    turn, shift = motions[:, :3, :3], motions[:, :3, 3]
    poses["global_orient"] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(poses["global_orient"])).as_rotvec()
    poses["transl"] = np.einsum("nij,nj->ni", turn, poses["transl"] + pelvis) + shift - pelvis
    np.savez(folder / "poses.npz", **poses)
    write_pictures(folder, layout, name)
    return folder


def write_pictures(folder: Path, layout: str, camera: str) -> None:
    """Images, masks and maps in the layout's folders and formats."""
    relit = {"images_relit": "images/image"} if layout == "synthetichuman" else {}
    maps = {"albedos_png": "albedos/albedo", "normals_png": "normals/normal"} if relit else {}
    for target, stem in ({"images": "images/image"} | relit | maps).items():
        (folder / target / camera).mkdir(parents=True)
        for i in range(COUNT):
            picture = cv2.imread(str(source() / f"{stem}_{i:04d}.png"))
            suffix = ".jpg" if layout == "zju-mocap" else ".png"
            name = folder / target / camera / f"image_{i:04d}{suffix}"
            cv2.imwrite(str(name), picture // 2 if target == "images" and relit else picture)
    (folder / "masks" / camera).mkdir(parents=True)
    for i in range(COUNT):
        mask = np.load(source() / "masks" / f"mask_{i:04d}.npy")
        if layout == "zju-mocap":
            labels = np.where(mask == 1, 1 + np.arange(mask.shape[1]) % 19, 0)  # parts, as in mask_cihp
            cv2.imwrite(str(folder / f"masks/{camera}/mask_{i:04d}.png"), labels.astype(np.uint8))
        else:
            np.save(folder / f"masks/{camera}/mask_{i:04d}.npy", 255 * mask)
    if relit:
        lights = json.loads((source() / "hdri_files.json").read_text())
        (folder / "hdri_files.json").write_text(json.dumps(lights))
