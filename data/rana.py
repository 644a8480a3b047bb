"""The RANA layout: ``<root>/{train_p1, test}/<subject>/`` and ``<root>/hdri/``."""

from pathlib import Path

from data.camera_files import read_cameras, target_size
from data.capture import CaptureReader, FrameFiles
from data.frame_range import ALL_FRAMES, FrameRange
from data.hdr import read_hdri_list
from data.image_folder import PICTURES, matching_files, numbered_files, optional_files
from data.lazy_frames import LazyFrames, LazyFrameSet
from data.pose_files import read_poses

VALID_DILATION = 100
"""Kernel side of the mask dilation whose box the published RANA metrics look at, pixels of the image read."""


class RanaFrames(LazyFrameSet):
    """Frames of one RANA subject with ground-truth albedo and normals, and per-frame HDRIs in the relit split.

    Besides the published files, optional folders ``roughness/`` and ``metallic/`` are read.
    """

    name = "rana"

    def __init__(
        self,
        *,
        root: str | Path,
        subject: str,
        gender: str,
        split: str = "train_p1",
        frames: FrameRange = ALL_FRAMES,
        downscale: float = 1.0,
        size: tuple[int, int] | None = None,
        preload: bool = False,
        keep_background: bool = False,
    ) -> None:
        """Find all files and check them against each other; pictures are read on demand.

        Args:
            root: folder that holds the splits and ``hdri/``.
            gender: ``male``, ``female`` or ``neutral``.
            frames: positions in the sorted sequence.
            downscale: size divisor; ``size`` (height, width) overrides it.
            keep_background: leave what lies outside the mask as it is in the images, instead of white.

        Raises:
            InputError: any file is missing, or they do not fit together.
        """
        root, folder = Path(root), Path(root) / split / subject
        images = numbered_files(folder / "images")
        cameras = read_cameras(folder / "cameras.json")
        poses = read_poses(folder / "poses.npz", gender)
        poses.check_count(len(images), folder / "images")
        cameras.check_frames(len(images))
        selected = frames.indices(len(images), folder / "images", "images")
        numbers = [list(images)[i] for i in selected]
        width, height = target_size(cameras.width, cameras.height, downscale, size)
        reader = CaptureReader(cameras, width, height, VALID_DILATION, keep_background)
        columns = {
            "image": [images[n] for n in numbers],
            "mask": matching_files(folder / "masks", numbers, (".npy", *PICTURES)),
            "albedo": optional_files(folder / "albedos", numbers),
            "normal": optional_files(folder / "normals", numbers),
            "roughness": optional_files(folder / "roughness", numbers),
            "metallic": optional_files(folder / "metallic", numbers),
            "hdri": self._hdris(root, folder, len(images), selected),
        }
        files = [FrameFiles(**{k: c[i] for k, c in columns.items() if c}) for i in range(len(selected))]
        reader.check_size(files[0].image)
        self.subject, self.gender = subject, gender
        self.betas = poses.known_betas
        rows = poses.select(selected).pose
        self._frames = LazyFrames(len(files), lambda i: reader.read(i, selected[i], files[i], rows[i]), preload)

    @staticmethod
    def _hdris(root: Path, folder: Path, count: int, selected: list[int]) -> list[Path] | None:
        listing = folder / "hdri_files.json"
        if not listing.is_file():
            return None
        maps = read_hdri_list(listing, count, [root / "hdri"])
        return [maps[i] for i in selected]
