"""Layouts with a folder for each camera: SyntheticHuman and ZJU-MoCap, one camera at a time."""

from dataclasses import dataclass
from pathlib import Path

from data.camera_files import read_named_camera, target_size
from data.capture import CaptureReader, FrameFiles
from data.frame_range import ALL_FRAMES, FrameRange
from data.hdr import read_hdri_list
from data.image_folder import PICTURES, matching_files, numbered_files, optional_files
from data.lazy_frames import LazyFrames, LazyFrameSet
from data.pose_files import read_poses

VALID_DILATION = 50
"""Kernel side of the mask dilation whose box the published metrics look at, pixels of the image read."""


@dataclass(frozen=True)
class CameraFolderLayout:
    """Names of the folders below ``<root>/<subject>/``, each with a sub-folder for every camera."""

    name: str
    relit_images: str
    """Images of the ``test`` split; those of the others are in ``images/``."""
    labelled_masks: bool = False
    """Masks hold part labels: above 0 is the person."""


SYNTHETIC_HUMAN = CameraFolderLayout("synthetichuman", relit_images="images_relit")
ZJU_MOCAP = CameraFolderLayout("zju-mocap", relit_images="images", labelled_masks=True)
LAYOUTS = {layout.name: layout for layout in (SYNTHETIC_HUMAN, ZJU_MOCAP)}


class CameraFolderFrames(LazyFrameSet):
    """Frames of one subject seen by one of its cameras.

    ``cameras.json`` holds ``all_cam_names`` and each camera, whose matrices may have a row per frame; ``images/``,
    ``masks/`` and, where they exist, ``albedos_png/``, ``normals_png/`` and ``bound_masks/`` (regions that metrics look
    at) have a folder for each camera; ``poses.npz`` has a row per image. ``hdri_files.json`` names the lights of the
    ``test`` split, which lie in ``<root>/hdri/``. Masks are binary here: the published ring of unknown pixels around
    ZJU-MoCap's is not made.
    """

    def __init__(
        self,
        *,
        layout: CameraFolderLayout,
        root: str | Path,
        subject: str,
        gender: str,
        split: str = "train",
        camera: str | None = None,
        frames: FrameRange = ALL_FRAMES,
        downscale: float = 1.0,
        size: tuple[int, int] | None = None,
        preload: bool = False,
        keep_background: bool = False,
    ) -> None:
        """Find all files and check them against each other; pictures are read on demand.

        Args:
            layout: ``SYNTHETIC_HUMAN`` or ``ZJU_MOCAP``.
            gender: ``male``, ``female`` or ``neutral``.
            split: ``test`` takes the relit images and their lights, where the layout has them.
            camera: its name; None: the first of ``all_cam_names``.
            frames: positions in the sorted sequence.
            downscale: size divisor; ``size`` (height, width) overrides it.
            keep_background: leave what lies outside the mask as it is in the images, instead of white.

        Raises:
            InputError: any file is missing, or they do not fit together.
        """
        root, folder = Path(root), Path(root) / subject
        name, cameras = read_named_camera(folder / "cameras.json", camera)
        source = folder / (layout.relit_images if split == "test" else "images") / name
        images = numbered_files(source)
        poses = read_poses(folder / "poses.npz", gender)
        poses.check_count(len(images), source)
        cameras.check_frames(len(images))
        selected = frames.indices(len(images), source, "images")
        numbers = [list(images)[i] for i in selected]
        width, height = target_size(cameras.width, cameras.height, downscale, size)
        reader = CaptureReader(cameras, width, height, VALID_DILATION, keep_background, layout.labelled_masks)
        lights = folder / "hdri_files.json"
        relit = split == "test" and lights.is_file()
        lit = read_hdri_list(lights, len(images), [root / "hdri"]) if relit else None
        columns = {
            "image": [images[n] for n in numbers],
            "mask": matching_files(folder / "masks" / name, numbers, (".npy", *PICTURES)),
            "albedo": optional_files(folder / "albedos_png" / name, numbers),
            "normal": optional_files(folder / "normals_png" / name, numbers),
            "bounds": optional_files(folder / "bound_masks" / name, numbers),
            "hdri": [lit[i] for i in selected] if lit else None,
        }
        files = [FrameFiles(**{k: c[i] for k, c in columns.items() if c}) for i in range(len(selected))]
        reader.check_size(files[0].image)
        self.name, self.subject, self.gender = layout.name, subject, gender
        self.betas = poses.known_betas
        rows = poses.select(selected).pose
        self._frames = LazyFrames(len(files), lambda i: reader.read(i, selected[i], files[i], rows[i]), preload)
