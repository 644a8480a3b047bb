"""The PeopleSnapshot layout, as InstantAvatar prepares it: ``<root>/<subject>/`` with images, masks, cameras, poses."""

from pathlib import Path

from data.camera_files import read_cameras, target_size
from data.capture import CaptureReader, FrameFiles
from data.frame_range import ALL_FRAMES, FrameRange
from data.image_folder import PICTURES, matching_files, numbered_files
from data.lazy_frames import LazyFrames, LazyFrameSet
from data.pose_files import PoseSequence, read_poses


class PeopleSnapshotFrames(LazyFrameSet):
    """Frames of one PeopleSnapshot subject.

    Poses of a split come from ``poses/anim_nerf_<split>.npz`` or ``poses/<split>.npz``, with one row per *selected*
    frame, else from ``poses.npz``, which holds one row per image. The published "test" is the training split under
    another name: ask for ``split="train"`` with its frames to reproduce it.
    """

    name = "peoplesnapshot"

    def __init__(
        self,
        *,
        root: str | Path,
        subject: str,
        gender: str,
        split: str = "train",
        frames: FrameRange = ALL_FRAMES,
        downscale: float = 1.0,
        size: tuple[int, int] | None = None,
        preload: bool = False,
        keep_background: bool = False,
    ) -> None:
        """Find all files and check them against each other; pictures are read on demand.

        Args:
            gender: ``male``, ``female`` or ``neutral``.
            split: ``train``, ``val`` or ``test``: names the pose file.
            frames: positions in the sorted images.
            downscale: size divisor; ``size`` (height, width) overrides it.
            keep_background: leave what lies outside the mask as it is in the images, instead of white.

        Raises:
            InputError: any file is missing, or they do not fit together.
        """
        folder = Path(root) / subject
        images = numbered_files(folder / "images")
        cameras = read_cameras(folder / "cameras.npz")
        cameras.check_frames(len(images))
        selected = frames.indices(len(images), folder / "images", "images")
        numbers = [list(images)[i] for i in selected]
        masks = matching_files(folder / "masks", numbers, (".npy", *PICTURES))
        poses = _split_poses(folder, split, gender, frames, len(images))
        width, height = target_size(cameras.width, cameras.height, downscale, size)
        reader = CaptureReader(cameras, width, height, keep_background=keep_background)
        files = [FrameFiles(images[number], mask) for number, mask in zip(numbers, masks)]
        reader.check_size(files[0].image)
        self.subject, self.gender = subject, gender
        self.betas = poses.known_betas
        self._frames = LazyFrames(len(files), lambda i: reader.read(i, selected[i], files[i], poses.pose[i]), preload)


def _split_poses(folder: Path, split: str, gender: str, frames: FrameRange, image_count: int) -> PoseSequence:
    selected = frames.indices(image_count, folder / "images", "images")
    for path in (folder / "poses" / f"anim_nerf_{split}.npz", folder / "poses" / f"{split}.npz"):
        if path.is_file():
            poses = read_poses(path, gender)
            # Frames that are left out keep their rows in the file of their split.
            rows = frames.complete.indices(image_count, folder / "images", "images")
            poses.check_count(len(rows), f"{folder / 'images'} (images {rows[0]}-{rows[-1]})")
            return poses.select([rows.index(position) for position in selected])
    poses = read_poses(folder / "poses.npz", gender)
    poses.check_count(image_count, folder / "images")
    return poses.select(selected)
