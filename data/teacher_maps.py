"""One frame of the teacher's maps from its files: lossless floats, or the published 8-bit pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from core.camera import Camera
from core.color import composite, linear_to_srgb
from core.errors import InputError
from core.files import read_array, read_arrays
from core.frames import world_to_opengl_normals
from core.images import read_image

_NEXT_STEP = "Render the distillation set again."


@dataclass(frozen=True)
class TeacherMaps:
    """The teacher's render of one frame; properties are averages over the covered part, zero where alpha is 0."""

    image: Tensor
    """[H, W, 3] sRGB over white."""
    alpha: Tensor
    """[H, W] in [0, 1]."""
    normal: Tensor
    """[H, W, 3] unit, OpenGL camera axes."""
    albedo: Tensor
    """[H, W, 3] linear."""
    roughness: Tensor | None
    metallic: Tensor | None
    depth: Tensor | None
    """[H, W] metres along the ray."""


def read_float_maps(path: Path, camera: Camera) -> TeacherMaps:
    """Read ``NNNN-maps.npz``; its normals are in world space.

    Raises:
        InputError: missing, broken, or an array is absent, of another size, or not finite.
    """
    arrays = read_arrays(path, _NEXT_STEP)
    names = ("pbr_rgb", "alpha", "normal", "albedo", "roughness", "metallic", "depth")
    absent = [name for name in names if name not in arrays]
    if absent:
        raise InputError(
            path,
            found=f"no {', '.join(absent)} among {sorted(arrays)}",
            expected=", ".join(names),
            next_step=_NEXT_STEP,
        )
    maps = {name: torch.from_numpy(arrays[name]).float() for name in names}
    size = maps["alpha"].shape
    for name, values in maps.items():
        if values.shape[:2] != size or not bool(values.isfinite().all()):
            raise InputError(
                path,
                found=f"{name} of shape {tuple(values.shape)} or with values that are not finite",
                expected=f"finite {tuple(size)}",
                next_step=_NEXT_STEP,
            )
    alpha = maps["alpha"].clamp(0, 1)
    normal = functional.normalize(world_to_opengl_normals(maps["normal"], camera), dim=-1)
    return TeacherMaps(
        image=linear_to_srgb(composite(maps["pbr_rgb"], alpha, 1.0)).clamp(0, 1),
        alpha=alpha,
        normal=normal * (alpha > 0)[..., None],
        albedo=maps["albedo"],
        roughness=maps["roughness"],
        metallic=maps["metallic"],
        depth=maps["depth"],
    )


def read_picture_maps(folder: Path, alpha_folder: Path, name: str, *, fallback_alpha: Tensor | None) -> TeacherMaps:
    """Read the published pictures of frame ``name``: albedo over black, materials over white, normals un-normalised.

    Args:
        fallback_alpha: [H, W] coverage to use where ``alpha_folder`` has no picture of the frame (training frames).

    Raises:
        InputError: a picture is missing or broken, or there is no alpha.
    """
    alpha, image = _coverage(folder, alpha_folder, name, fallback_alpha)
    covered = (alpha > 0)[..., None]
    safe = alpha.clamp_min(1 / 255)
    vectors = read_image(folder / f"{name}-normal.png") * 2 - 1
    # Where little is covered, the direction of 8-bit un-normalised normals is noise.
    directed = (vectors.norm(dim=-1, keepdim=True) > 0.1) & covered
    albedo = (read_image(folder / f"{name}-pbr_albedo.png") / safe[..., None]).clamp(0, 1) * covered
    return TeacherMaps(
        image=image,
        alpha=alpha,
        normal=functional.normalize(vectors, dim=-1) * directed,
        albedo=albedo,
        roughness=_over_white(folder / f"{name}-pbr_roughness.png", alpha, safe),
        metallic=_over_white(folder / f"{name}-pbr_metallic.png", alpha, safe),
        depth=_depth(folder / f"{name}-depth.npy", alpha),
    )


def _coverage(folder: Path, alpha_folder: Path, name: str, fallback: Tensor | None) -> tuple[Tensor, Tensor]:
    picture = alpha_folder / f"{name}-pbr_rgb.png"
    if picture.is_file() or fallback is None:
        rgba = read_image(picture, channels=4)
        return rgba[..., 3], rgba[..., :3]
    return fallback, read_image(folder / f"{name}-pbr_rgb.png")


def _over_white(path: Path, alpha: Tensor, safe: Tensor) -> Tensor | None:
    if not path.is_file():
        return None
    return ((read_image(path, channels=1) - (1 - alpha)) / safe).clamp(0, 1) * (alpha > 0)


def _depth(path: Path, alpha: Tensor) -> Tensor | None:
    # The published depth adds (1 - alpha) times an unrecorded far distance.
    return torch.from_numpy(read_array(path, _NEXT_STEP)).float() * (alpha > 0.99) if path.is_file() else None
