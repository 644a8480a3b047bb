"""From the dataset options of the configuration to datasets and bodies."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from body_models import load_body
from body_models.canonical import CanonicalBody
from core.errors import InputError
from core.frames import FrameSet
from data.animation import MotionFrames
from data.camera_folders import LAYOUTS as CAMERA_FOLDERS
from data.camera_folders import CameraFolderFrames
from data.distillation import DistillationFrames
from data.frame_range import FrameRange
from data.peoplesnapshot import PeopleSnapshotFrames
from data.rana import RanaFrames
from workflows.paths import StagePaths

SPLITS = ("train", "val", "test")


def implicit_frames(config: DictConfig, split: str) -> FrameSet:
    """The teacher's dataset for ``split``: ``train``, ``val`` or ``test``.

    Raises:
        InputError: unknown dataset, a motion asked for training, or data that the readers refuse.
    """
    options = config.implicit_branch.dataset
    if options.name == "animation":
        return _motion(options, split)
    split_name = options[f"{split}_split"]
    # PeopleSnapshot names its split after the options that it uses: test_split=train is the published "test".
    chosen = options.opt[split_name] if split_name in options.opt else options.opt[split]
    capture = {"root": options.dataroot, "subject": options.subject, "gender": options.gender, "split": split_name}
    frames = FrameRange.inclusive(chosen.start, chosen.end, chosen.skip)
    if split == "train":
        frames = frames.without(options.exclude)
    return _capture(options, **capture, frames=frames, downscale=chosen.downscale)


def _motion(options: DictConfig, split: str) -> MotionFrames:
    if split != "test":
        raise InputError(
            "implicit_branch/dataset",
            found=f"a motion without images, asked for its {split} split",
            expected="a capture",
            next_step="Use motions with implicit_branch.mode=test; train on peoplesnapshot/* or rana/p1/*.",
        )
    chosen = options.opt.test
    return MotionFrames(
        root=options.dataroot,
        motion=options.motion,
        subject_root=options.subject_root,
        subject=options.subject,
        gender=options.gender,
        frames=FrameRange.inclusive(chosen.start, chosen.end, chosen.skip),
        downscale=chosen.downscale,
        hdri=options.hdri_filepath,
    )


PUBLISHED_NAMES = {"people_snapshot": "peoplesnapshot", "animation": "peoplesnapshot"}
"""The student's names of layouts; its animation options train on PeopleSnapshot."""


def _capture(options: DictConfig, **arguments) -> FrameSet:
    readers: dict[str, Callable[..., FrameSet]] = {"peoplesnapshot": PeopleSnapshotFrames, "rana": RanaFrames}
    for layout in CAMERA_FOLDERS.values():
        readers[layout.name] = partial(CameraFolderFrames, layout=layout, camera=options.get("camera"))
    name = PUBLISHED_NAMES.get(options.name, options.name)
    if name not in readers:
        raise InputError(
            "dataset name",
            found=options.name,
            expected=", ".join([*readers, *PUBLISHED_NAMES]),
            next_step="Choose one of the options under configs/*/dataset.",
        )
    return readers[name](**arguments)


def explicit_frames(config: DictConfig, split: str) -> FrameSet:
    """The student's dataset: ``train`` = its training frames, ``test`` = frames of ``dataset.test_mode``.

    Raises:
        InputError: as :func:`implicit_frames`.
    """
    options = config.explicit_branch.dataset
    items: Sequence[int | None] = options.train_frames if split == "train" else options.test_frames[options.test_mode]
    frames, size = FrameRange.of(list(items)), (options.img_hw[0], options.img_hw[1])
    if options.name == "animation" and split == "test":
        return MotionFrames(
            root=options.motion_root,
            motion=options.motion,
            subject_root=Path(options.root_dir) / options.subject,
            subject=options.subject,
            gender=options.gender,
            frames=frames,
            size=size,
        )
    if split == "train":
        frames = frames.without(options.exclude)
    capture = {"root": options.root_dir, "subject": options.subject, "gender": options.gender}
    split_name = _split_name(options, split)
    return _capture(options, **capture, split=split_name, frames=frames, size=size, preload=options.preload)


def _split_name(options: DictConfig, split: str) -> str:
    if split == "test" and "split" in options:
        return options.split
    return "train_p1" if options.name == "rana" else split


def distillation_frames(config: DictConfig) -> FrameSet:
    """The distillation avatar with all maps, paired with the motion that it was rendered for."""
    options = config.explicit_branch.distill_dataset
    motion = MotionFrames(
        root=options.motion_root,
        motion=options.motion,
        subject_root=options.subject_root,
        subject=config.explicit_branch.dataset.subject,
        gender=config.explicit_branch.dataset.gender,
        frames=FrameRange.of(list(options.frames)),
        downscale=options.downscale,
    )
    return DistillationFrames(
        motion,
        StagePaths(config).distillation_dir,
        alpha_folder=options.alpha_data_dir,
        canonical_pose=config.explicit_branch.dataset.rest_pose,
        preload=config.explicit_branch.dataset.preload,
    )


def training_maps(config: DictConfig, frames: FrameSet) -> FrameSet:
    """``frames`` (the student's training frames) with the teacher's maps of them; image and mask stay the capture's."""
    return DistillationFrames(
        frames,
        StagePaths(config).teacher_maps,
        canonical_pose=config.explicit_branch.dataset.rest_pose,
        keep_images=True,
        preload=config.explicit_branch.dataset.preload,
    )


def canonical_body(config: DictConfig, frames: FrameSet) -> CanonicalBody:
    """The body of ``frames``' subject in the canonical pose of the configuration.

    The body file is ``implicit_branch.deformer.model_path``, where the published layout keeps it; ``embedded`` is the
    project's own body.
    """
    deformer = config.implicit_branch.deformer
    body = load_body(deformer.model_path, frames.gender)
    pose = deformer.cano_pose if isinstance(deformer.cano_pose, str) else list(deformer.cano_pose)
    return CanonicalBody(body, frames.betas, pose)


def student_body(config: DictConfig, frames: FrameSet) -> CanonicalBody:
    """The body of the student's subject in ``explicit_branch.dataset.rest_pose``.

    Raises:
        InputError: teacher and student name different canonical poses.
    """
    options = config.explicit_branch.dataset
    return CanonicalBody(load_body(options.body_model, frames.gender), frames.betas, options.rest_pose)
