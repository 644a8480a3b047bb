"""Converts sequences of RANA, as its authors ship them, to the layout that the project reads.

    python -m data.preprocess.rana --data-dir ~/RANA --split train_p1 --seqname subject_01
    python -m data.preprocess.rana --data-dir ~/RANA --split test --seqname subject_01 --out-dir load/rana --workers 8

Reads <data-dir>/<split>/<seqname>/ with frame_NNNNNN.{json,png} and frame_NNNNNN_{albedo,normals,semantic}.png;
writes <out-dir>/<split>/<seqname>/ with cameras.json, poses.npz, images/, albedos/, normals/, masks/ and, for the test
split, hdri_files.json. The SMPL body of the sequence's gender is needed: the raw positions are those of its pelvis.
Maps of the test split are not downloaded; the missing ones are listed. An interrupted conversion goes on where it
stopped.
"""

import argparse
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from body_models import load_body
from body_models.skinning import rest_joints
from core.errors import InputError, list_some
from core.files import missing, write_json_atomically, write_npz_atomically
from data.hdr import find_hdri
from data.preprocess.command_line import add_workers, new_parser, run
from data.preprocess.conversion import Conversion, Job, fingerprint, run_jobs
from data.preprocess.pictures import (
    check_size,
    decode_picture,
    read_picture,
    read_whole_file,
    warn_of_empty_masks,
    write_bytes,
    write_mask,
)
from data.preprocess.rana_annotations import RanaSequence, read_sequence
from data.rana import RanaFrames

logger = logging.getLogger(__name__)

MAPS = {"images": ("image", ""), "albedos": ("albedo", "_albedo"), "normals": ("normal", "_normals")}
"""Folder written: name of its files, and what follows the frame's name in the source."""
POLY_HAVEN = "https://dl.polyhaven.org/file/ph-assets/HDRIs/hdr/4k/"
_FRAME = re.compile(r"frame_\d{6}\.png")


def convert(source: Path, output: Path, relit: bool, body_model: str | Path, workers: int) -> None:
    """Write the layout to ``output``.

    Args:
        source: the raw sequence's folder.
        output: ``<root>/<split>/<subject>``.
        relit: whether this is the test split, whose frames have lights and a turned camera.
        body_model: location of the SMPL bodies, or ``embedded``.

    Raises:
        InputError: a file is missing or broken, or ``output`` belongs to another conversion.
    """
    frames = list_frames(source)
    height, width = read_picture(frames[0]).shape[:2]
    sequence = read_sequence([path.with_suffix(".json") for path in frames], relit, (width, height))
    pelvis = _pelvis(body_model, sequence)
    settings = {
        "split": "test" if relit else "train",
        "frames": len(frames),
        "sources": [fingerprint(frames[0].with_suffix(".json")), fingerprint(frames[-1].with_suffix(".json"))],
    }
    conversion = Conversion(output, "data.preprocess.rana", settings)
    run_jobs(_jobs(frames, output, (width, height)), len(frames), source.name, workers)
    _write_tables(sequence, pelvis, output)
    conversion.finish()
    warn_of_empty_masks(output / "masks", (_target(output, "masks", "mask", i) for i in range(len(frames))))
    if _has_all_lights(sequence, output.parents[1] / "hdri"):
        RanaFrames(root=output.parents[1], subject=output.name, gender=sequence.gender, split=output.parent.name)
    logger.info("%s: %d frames of %d x %d, %s", output, len(frames), width, height, sequence.gender)


def list_frames(source: Path) -> list[Path]:
    """The images ``frame_NNNNNN.png`` of a sequence, in order.

    Raises:
        InputError: there are none, or other files of a frame are missing.
    """
    if not source.is_dir():
        raise missing(source, "Give the folder that holds the splits, a split, and the name of a sequence.")
    frames = sorted(path for path in source.iterdir() if _FRAME.fullmatch(path.name))
    if not frames:
        found = list_some(sorted(path.name for path in source.iterdir()))
        raise InputError(source, found=found, expected="frame_000000.png ...", next_step="Give a sequence's folder.")
    endings = [".json", "_semantic.png", *(f"{suffix}.png" for _, suffix in MAPS.values() if suffix)]
    wanted = [path.with_name(path.stem + ending) for path in frames for ending in endings]
    absent = [path.name for path in wanted if not path.is_file()]
    if absent:
        raise InputError(
            source,
            found=f"no {list_some(absent)} ({len(absent)} of {len(wanted)})",
            expected="annotation, albedo, normals and semantic map of each frame",
            next_step="Complete the folder.",
        )
    return frames


def _pelvis(body_model: str | Path, sequence: RanaSequence) -> np.ndarray:
    """[3] the pelvis at rest: the root turns about it, so its place does not depend on the pose."""
    body = load_body(body_model, sequence.gender)
    return rest_joints(body, torch.from_numpy(sequence.betas))[0].numpy()


def _target(output: Path, folder: str, name: str, number: int) -> Path:
    return output / folder / f"{name}_{number:04d}{'.npy' if folder == 'masks' else '.png'}"


def _jobs(frames: list[Path], output: Path, size: tuple[int, int]) -> Iterator[Job | None]:
    for number, path in enumerate(frames):
        targets = {folder: _target(output, folder, name, number) for folder, (name, _) in MAPS.items()}
        mask = _target(output, "masks", "mask", number)
        done = all(target.is_file() for target in (*targets.values(), mask))
        yield None if done else partial(_write_frame, path, targets, mask, size)


def _write_frame(path: Path, targets: dict[str, Path], mask: Path, size: tuple[int, int]) -> None:
    for folder, target in targets.items():
        source = path.with_name(f"{path.stem}{MAPS[folder][1]}.png")
        content = read_whole_file(source)
        check_size(source, decode_picture(source, content), *size, "the sequence's first image")
        write_bytes(target, content)
    source = path.with_name(f"{path.stem}_semantic.png")
    semantic = read_picture(source)
    check_size(source, semantic, *size, "the sequence's first image")
    if semantic.ndim != 3 or semantic.shape[2] != 4:
        found = f"a picture of shape {semantic.shape}"
        next_step = "Copy RANA's own semantic maps; their alpha is the person's mask."
        raise InputError(source, found=found, expected="RGBA", next_step=next_step)
    write_mask(mask, semantic[..., 3] / np.iinfo(semantic.dtype).max > 0.5)


def _write_tables(sequence: RanaSequence, pelvis: np.ndarray, output: Path) -> None:
    transl = sequence.pelvis_positions - pelvis
    poses = {
        "betas": sequence.betas[None],
        "global_orient": sequence.global_orient,
        "body_pose": sequence.body_pose,
        "transl": transl.astype(np.float32),
        "gender": np.array(sequence.gender),
    }
    write_npz_atomically(output / "poses.npz", poses)
    camera = {
        "intrinsic": sequence.intrinsic.tolist(),
        "extrinsic": sequence.extrinsic.tolist(),
        "distortion": [0, 0, 0, 0],
        "height": sequence.height,
        "width": sequence.width,
    }
    write_json_atomically(output / "cameras.json", camera)
    if sequence.lights is not None:
        write_json_atomically(output / "hdri_files.json", sequence.lights)


def _has_all_lights(sequence: RanaSequence, folder: Path) -> bool:
    absent = []
    for name in sorted(set(sequence.lights or [])):
        try:
            find_hdri(name, [folder])
        except InputError:
            absent.append(name)
    if absent:
        links = "\n".join(f"  {POLY_HAVEN}{name}" for name in absent)
        logger.warning("%s: %d environment maps are missing; download them there:\n%s", folder, len(absent), links)
    return not absent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(_parser(), _convert_all, arguments)


def _convert_all(options: argparse.Namespace) -> None:
    if options.visualize:
        logger.info("--visualize: use `python -m data.check` on the written folder.")
    for name in options.seqname:
        source, output = options.data_dir / options.split / name, options.out_dir / options.split / name
        convert(source, output, options.split == "test", options.body_model, options.workers)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("data.preprocess.rana", __doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the raw splits")
    parser.add_argument("--split", choices=("train_p1", "train_p2_p3", "test"), default="train_p1", help="which one")
    parser.add_argument("--seqname", nargs="+", default=["subject_01"], help="sequences (default: subject_01)")
    parser.add_argument("--out-dir", type=Path, default=Path("load/rana"), help="default: load/rana")
    parser.add_argument("--body-model", default="data/SMPLX/smpl", help="SMPL files (default: data/SMPLX/smpl)")
    parser.add_argument("--visualize", action="store_true", help="accepted for the published command line")
    add_workers(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
