"""Small datasets in the published layouts, written by plain numpy and OpenCV, independent of the project's writers."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

HEIGHT, WIDTH, COUNT = 20, 24, 6
INTRINSIC = np.array([[30.0, 0, 12], [0, 30.0, 10], [0, 0, 1]])


class Layouts:
    """Writes datasets under ``root``; arrays are kept for comparison."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 200, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
        self.masks = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
        for i in range(COUNT):
            self.masks[i, 4:16, 6 + i : 16 + i] = 1
        self.betas = np.linspace(-1, 1, 10, dtype=np.float32)
        self.poses = rng.normal(size=(COUNT, 72)).astype(np.float32)
        self.transl = rng.normal(size=(COUNT, 3)).astype(np.float32)
        self.extrinsic = np.eye(4)

    def pose_arrays(self, rows=slice(None)) -> dict:
        """Arrays of a pose file with the chosen rows."""
        poses = self.poses[rows]
        return {
            "betas": self.betas[None],
            "global_orient": poses[:, :3],
            "body_pose": poses[:, 3:],
            "transl": self.transl[rows],
        }

    def _pictures(self, folder: Path) -> None:
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        for i in range(COUNT):
            cv2.imwrite(str(folder / f"images/image_{i:04d}.png"), self.images[i, ..., ::-1])
            np.save(folder / f"masks/mask_{i:04d}.npy", self.masks[i])

    def rana(self, split: str = "train_p1") -> Path:
        """A RANA subject with every map; the relit split names a map for each frame."""
        folder = self.root / "rana" / split / "subject_01"
        self._pictures(folder)
        camera = {
            "intrinsic": INTRINSIC.tolist(),
            "extrinsic": self.extrinsic.tolist(),
            "distortion": [0, 0, 0, 0],
            "height": HEIGHT,
            "width": WIDTH,
        }
        (folder / "cameras.json").write_text(json.dumps(camera))
        np.savez(folder / "poses.npz", **self.pose_arrays())
        for kind, stem in (("albedos", "albedo"), ("normals", "normal"), ("roughness", "roughness")):
            (folder / kind).mkdir()
            for i in range(COUNT):
                picture = np.full((HEIGHT, WIDTH, 3), (255, 128, 51), np.uint8)  # blue, green, red
                cv2.imwrite(str(folder / kind / f"{stem}_{i:04d}.png"), picture)
        if split == "test":
            maps = self.root / "rana" / "hdri"
            maps.mkdir()
            for name in ("a.hdr", "b.hdr"):
                cv2.imwrite(str(maps / name), np.ones((4, 8, 3), np.float32))
            (folder / "hdri_files.json").write_text(json.dumps(["a.hdr", "b.hdr"] * (COUNT // 2)))
        return folder

    def peoplesnapshot(self) -> Path:
        """A PeopleSnapshot subject: frames 0, 2 are the train split, 4, 5 the test split."""
        folder = self.root / "peoplesnapshot" / "male-1-casual"
        self._pictures(folder)
        np.savez(folder / "cameras.npz", intrinsic=INTRINSIC, extrinsic=self.extrinsic, height=HEIGHT, width=WIDTH)
        np.savez(folder / "poses.npz", betas=self.betas, thetas=self.poses, transl=self.transl)
        (folder / "poses").mkdir()
        np.savez(folder / "poses/anim_nerf_train.npz", **self.pose_arrays(slice(0, 4, 2)))
        np.savez(folder / "poses/anim_nerf_test.npz", **self.pose_arrays(slice(4, 6)))
        return folder

    def motion(self, height: int = 1080, width: int = 1080) -> Path:
        """A motion with one stored camera."""
        folder = self.root / "animation" / "walk"
        folder.mkdir(parents=True)
        np.savez(folder / "poses.npz", poses=self.poses, trans=self.transl)
        intrinsic = np.array([[1500.0, 0, 500], [0, 1500.0, 600], [0, 0, 1]])
        extrinsic = np.eye(4)
        extrinsic[:3, 3] = (0.1, 0.2, 0.3)
        np.savez(folder / "cameras.npz", intrinsic=intrinsic, extrinsic=extrinsic, height=height, width=width)
        return folder


@pytest.fixture
def layouts(tmp_path) -> Layouts:
    """A writer of datasets in a temporary folder."""
    return Layouts(tmp_path)
