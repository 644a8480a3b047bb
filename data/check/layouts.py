"""Which layout a folder has, and how its frames are opened."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from core.camera import Camera
from core.errors import InputError, list_some
from core.files import missing, read_arrays, read_json
from core.frames import BodyPose, Frame, FrameSet
from core.images import read_image
from data import embedded
from data.animation import MotionFrames
from data.camera_folders import SYNTHETIC_HUMAN, ZJU_MOCAP, CameraFolderFrames, CameraFolderLayout
from data.distillation import DistillationFrames, render_names
from data.frame_range import ALL_FRAMES, FrameRange
from data.peoplesnapshot import PeopleSnapshotFrames
from data.pose_files import read_recorded_gender
from data.rana import RanaFrames

GENDERS = ("neutral", "male", "female")
BODY_FOLDER = Path("data/SMPLX/smpl")


@dataclass(frozen=True)
class Request:
    """A folder to check, and what it does not say itself."""

    folder: Path
    layout: str | None = None
    """One of ``LAYOUTS``; None: recognised by its files."""
    gender: str | None = None
    """None: as recorded in the pose file, else as in the subject's name, else neutral."""
    split: str | None = None
    """PeopleSnapshot: poses of this split, for ``frames``; None: ``poses.npz``, for all images. SyntheticHuman:
    ``test`` shows the relit images."""
    camera: str | None = None
    """Which one, where there is a folder for each; None: the first."""
    frames: FrameRange = ALL_FRAMES
    subject_root: Path | None = None
    """Whose betas a motion wears."""
    motion: Path | None = None
    """The motion that a distillation avatar was rendered for."""

    @property
    def gender_is_known(self) -> bool:
        """Whether it is given, recorded, or in the name; of a motion, the subject's counts."""
        return self._gender(self.subject_root or self.folder) is not None

    @property
    def known_gender(self) -> str:
        """The gender of the subject."""
        return self._gender(self.subject_root or self.folder) or "neutral"

    def _gender(self, folder: Path) -> str | None:
        return self.gender or read_recorded_gender(folder / "poses.npz") or _gender_in(folder.name)

    @property
    def body_location(self) -> str | Path:
        """Where the body of this folder is expected: the project's own for the project's own data."""
        own = embedded.root() in self.folder.resolve().parents
        return "embedded" if own else BODY_FOLDER


def recognise(folder: Path) -> str:
    """The layout of ``folder``, one of ``LAYOUTS``.

    Raises:
        InputError: it has none of them.
    """
    if not folder.is_dir():
        raise missing(folder, "Give the folder of one subject or motion; DATASET.md shows every layout.")
    if any((folder / "manifest.json").is_file() or any(folder.glob(f"*-{end}")) for end in ("maps.npz", "normal.png")):
        return "distillation"
    if (folder / "cameras.json").is_file():
        return _json_layout(folder)
    if (folder / "cameras.npz").is_file():
        return "peoplesnapshot" if (folder / "images").is_dir() else "motion"
    inside = sorted(path.parent.relative_to(folder) for path in folder.glob("*/cameras.*"))
    raise InputError(
        folder,
        found=list_some(sorted(path.name for path in folder.iterdir())),
        expected="cameras.npz, cameras.json, or a teacher's renders",
        next_step=f"Check one of its subjects: {list_some(inside)}." if inside else "DATASET.md shows every layout.",
    )


def _json_layout(folder: Path) -> str:
    """RANA has one camera; of those with several, only SyntheticHuman has ground truth and arrays as masks."""
    if "all_cam_names" not in read_json(folder / "cameras.json"):
        return RanaFrames.name
    truth = any((folder / name).is_dir() for name in ("albedos_png", "normals_png", SYNTHETIC_HUMAN.relit_images))
    return SYNTHETIC_HUMAN.name if truth or any(folder.glob("masks/*/*.npy")) else ZJU_MOCAP.name


@dataclass(frozen=True)
class Dataset:
    """An opened folder."""

    layout: str
    frames: FrameSet
    posed: bool
    """Whether the frames have poses: a distillation avatar has none without its motion."""


def open_dataset(request: Request) -> Dataset:
    """The layout and the frames of ``request``; pictures keep what lies outside their mask.

    Raises:
        InputError: no known layout, or the reader refuses the folder.
    """
    layout = request.layout or recognise(request.folder)
    posed = layout != "distillation" or (request.motion is not None and request.subject_root is not None)
    return Dataset(layout, LAYOUTS[layout](request), posed)


def _rana(request: Request) -> FrameSet:
    folder = request.folder.resolve()
    return RanaFrames(
        root=folder.parents[1],
        subject=folder.name,
        gender=request.known_gender,
        split=folder.parent.name,
        frames=request.frames,
        keep_background=True,
    )


def _peoplesnapshot(request: Request) -> FrameSet:
    folder = request.folder.resolve()
    return PeopleSnapshotFrames(
        root=folder.parent,
        subject=folder.name,
        gender=request.known_gender,
        split=request.split or "raw",
        frames=request.frames,
        keep_background=True,
    )


def _camera_folders(layout: CameraFolderLayout, request: Request) -> FrameSet:
    folder = request.folder.resolve()
    return CameraFolderFrames(
        layout=layout,
        root=folder.parent,
        subject=folder.name,
        gender=request.known_gender,
        split=request.split or "train",
        camera=request.camera,
        frames=request.frames,
        keep_background=True,
    )


def _motion(request: Request) -> MotionFrames:
    folder = request.folder.resolve()
    return MotionFrames(
        root=folder.parent,
        motion=folder.name,
        subject_root=request.subject_root,
        betas=torch.zeros(10) if request.subject_root is None else None,
        gender=request.known_gender,
        frames=request.frames,
    )


def _distillation(request: Request) -> FrameSet:
    size = _render_size(request.folder)
    if request.motion is None or request.subject_root is None:
        return DistillationFrames(UnposedRenders(request.folder, size), request.folder, selection=request.frames)
    motion = MotionFrames(
        root=request.motion.resolve().parent,
        motion=request.motion.resolve().name,
        subject_root=request.subject_root,
        gender=request.known_gender,
        size=size,
    )
    return DistillationFrames(motion, request.folder, selection=request.frames)


class UnposedRenders:
    """Frames of a distillation avatar whose motion is not known: no pose, a camera that only has a size."""

    name = "distillation"

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        manifest = folder / "manifest.json"
        stored = read_json(manifest) if manifest.is_file() else {}
        self.subject, self.gender = stored.get("subject", folder.parts[-3]), stored.get("gender", "neutral")
        self.betas = torch.tensor(stored.get("betas", [0.0] * 10))
        focal = float(max(size))
        intrinsics = torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
        self._camera = Camera(intrinsics, torch.eye(4), size[1], size[0])
        self._count = len(render_names(folder))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frame:
        pose = BodyPose(torch.zeros(3), torch.zeros(69), torch.zeros(3))
        return Frame(index=index, name=f"{index:04d}", camera=self._camera, pose=pose)

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(self._count))


def _render_size(folder: Path) -> tuple[int, int]:
    """Height and width of the renders: as the manifest says, else of the first one."""
    manifest = folder / "manifest.json"
    stored = read_json(manifest) if manifest.is_file() else {}
    if {"height", "width"} <= set(stored):
        return int(stored["height"]), int(stored["width"])
    name = render_names(folder)[0]
    floats = folder / f"{name}-maps.npz"
    shape = read_arrays(floats)["alpha"].shape if floats.is_file() else read_image(folder / f"{name}-normal.png").shape
    return int(shape[0]), int(shape[1])


LAYOUTS: dict[str, Callable[[Request], FrameSet]] = {
    "peoplesnapshot": _peoplesnapshot,
    "rana": _rana,
    SYNTHETIC_HUMAN.name: partial(_camera_folders, SYNTHETIC_HUMAN),
    ZJU_MOCAP.name: partial(_camera_folders, ZJU_MOCAP),
    "motion": _motion,
    "distillation": _distillation,
}


def _gender_in(name: str) -> str | None:
    """``female`` before ``male``, which it contains."""
    return next((gender for gender in ("female", "male") if gender in name), None)
