"""The tables of the PeopleSnapshot layout."""

from pathlib import Path

import numpy as np

from core.files import write_npz_atomically


def write_camera(
    folder: Path,
    intrinsic: np.ndarray,
    extrinsic: np.ndarray,
    size: tuple[int, int],
    distortion: np.ndarray | None = None,
) -> None:
    """Write ``cameras.npz``.

    Args:
        intrinsic: [3, 3] pixels.
        extrinsic: [4, 4] camera_from_world.
        size: width and height.
        distortion: OpenCV's coefficients, where the pictures are stored as filmed.
    """
    fields = {"intrinsic": intrinsic, "extrinsic": extrinsic, "height": np.array(size[1]), "width": np.array(size[0])}
    if distortion is not None:
        fields["distortion"] = distortion
    write_npz_atomically(folder / "cameras.npz", fields)


def write_fits(
    folder: Path, gender: str, betas: np.ndarray, thetas: np.ndarray, transl: np.ndarray, **more: np.ndarray
) -> None:
    """Write ``poses.npz`` with one row an image: ``thetas`` [N, 72], ``transl`` [N, 3]; ``betas`` [10]."""
    numbers = {"betas": betas, "thetas": thetas.reshape(len(thetas), -1), "transl": transl}
    fields = {name: values.astype(np.float32) for name, values in numbers.items()}
    write_npz_atomically(folder / "poses.npz", {**fields, "gender": np.array(gender), **more})
