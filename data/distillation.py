"""The distillation set: what the teacher rendered, paired with the frames that it was rendered for."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from core.checkpoints import check_metadata
from core.errors import InputError, list_some
from core.files import read_json
from core.frames import Frame, FrameSet
from data.frame_range import ALL_FRAMES, FrameRange
from data.lazy_frames import LazyFrames, LazyFrameSet
from data.teacher_maps import TeacherMaps, read_float_maps, read_picture_maps

SCHEMA = 1
_NEXT_STEP = (
    "Run the render stage first: the training script with implicit_branch.mode=test and this subject and motion."
)


class DistillationFrames(LazyFrameSet):
    """Frames of ``frames`` with the teacher's maps as albedo, normal, roughness, metallic and depth.

    Float maps ``NNNN-maps.npz`` are read where they exist. A published folder of pictures works too, at 8 bits: albedo
    and materials are divided by the 8-bit alpha, which costs up to 1/(255 alpha); normals are good to 0.4 degrees;
    depth of partly covered pixels is left out.
    """

    name = "distillation"

    def __init__(
        self,
        frames: FrameSet,
        folder: str | Path,
        *,
        alpha_folder: str | Path | None = None,
        canonical_pose: str | None = None,
        selection: FrameRange = ALL_FRAMES,
        keep_images: bool = False,
        preload: bool = False,
    ) -> None:
        """Pair renders with frames by position and compare the manifest with what it is used for.

        Args:
            frames: the motion or capture that was rendered, all of it.
            folder: ``it<step>-test``.
            alpha_folder: ``it<step>-test-with-alpha``; default: beside ``folder``. Needed for pictures only.
            canonical_pose: the student's rest pose.
            selection: which of the frames to use.
            keep_images: keep image and mask of ``frames`` (training frames); else they are the teacher's render over
                white and its soft alpha.

        Raises:
            InputError: the folder is empty, holds another number of renders, or was made for another subject.
        """
        self._source = frames
        self.subject, self.gender, self.betas = frames.subject, frames.gender, frames.betas
        folder = Path(folder)
        alpha = Path(alpha_folder) if alpha_folder else folder.with_name(folder.name + "-with-alpha")
        self._files = _RenderFiles(folder, alpha, tuple(render_names(folder)))
        if len(self._files.names) != len(frames):
            raise InputError(
                folder,
                found=f"{len(self._files.names)} renders",
                next_step=_NEXT_STEP,
                expected=f"{len(frames)}, one for each frame of {frames.name} {frames.subject}",
            )
        self._check_manifest(folder / "manifest.json", canonical_pose)
        self._keep_images = keep_images
        selected = selection.indices(len(frames), folder, "renders")
        self._frames = LazyFrames(len(selected), lambda i: self._read(i, selected[i]), preload)

    def _check_manifest(self, path: Path, canonical_pose: str | None) -> None:
        if not path.is_file():
            return  # published sets have none
        manifest = read_json(path, _NEXT_STEP)
        camera = self._source[0].camera
        expected = {
            "schema": SCHEMA, "subject": self.subject, "gender": self.gender, "betas": self.betas,
            "canonical_pose": canonical_pose, "width": camera.width, "height": camera.height,
        }  # fmt: skip
        check_metadata(manifest, expected, path)
        listed = manifest.get("frames", [])
        if len(listed) != len(self._files.names):
            raise InputError(
                path,
                found=f"{len(listed)} frames listed, {len(self._files.names)} renders in the folder",
                expected="as many of each",
                next_step=_NEXT_STEP,
            )

    def _read(self, position: int, number: int) -> Frame:
        frame = self._source[number]
        maps = self._files.read(number, frame)
        height, width = maps.alpha.shape
        if (width, height) != (frame.camera.width, frame.camera.height):
            raise InputError(
                self._files.folder / self._files.names[number],
                found=f"{width} x {height} pixels",
                expected=f"{frame.camera.width} x {frame.camera.height}, the size of the frames",
                next_step="Use the downscale that the set was rendered at, or render it again.",
            )
        if not self._keep_images:
            frame = replace(frame, image=maps.image, mask=maps.alpha)
        return replace(
            frame,
            index=position,
            name=f"{position:04d}",
            albedo=maps.albedo,
            normal=maps.normal,
            roughness=maps.roughness,
            metallic=maps.metallic,
            depth=maps.depth,
        )


@dataclass(frozen=True)
class _RenderFiles:
    folder: Path
    alpha_folder: Path
    names: tuple[str, ...]

    def read(self, number: int, frame: Frame) -> TeacherMaps:
        name = self.names[number]
        floats = self.folder / f"{name}-maps.npz"
        if floats.is_file():
            return read_float_maps(floats, frame.camera)
        return read_picture_maps(self.folder, self.alpha_folder, name, fallback_alpha=frame.mask)


def render_names(folder: Path) -> list[str]:
    """Stems of the renders in ``folder``, ascending: every frame has a normal map or float maps."""
    if not folder.is_dir():
        nearest = next((parent for parent in folder.parents if parent.is_dir()), Path())
        holds = list_some(sorted(entry.name for entry in nearest.iterdir()))
        raise InputError(
            folder,
            found=f"no such folder ({nearest} holds {holds})",
            expected="the teacher's renders",
            next_step=_NEXT_STEP,
        )
    pattern = re.compile(r"(.+)-(?:normal\.png|maps\.npz)")
    names = sorted({match[1] for path in folder.iterdir() if (match := pattern.fullmatch(path.name))})
    if not names:
        raise InputError(
            folder, found="no *-maps.npz and no *-normal.png", expected="the teacher's renders", next_step=_NEXT_STEP
        )
    return names
