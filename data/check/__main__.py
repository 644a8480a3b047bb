"""Validates a dataset folder and shows its bodies over its images.

    python -m data.check load/peoplesnapshot/male-3-casual
    python -m data.check load/rana/train_p1/subject_01 --body-model data/SMPLX/smpl
    python -m data.check load/animation/aist --subject-root load/peoplesnapshot/male-3-casual
    python -m data.check exp/intrinsic-avatar-subject_01/rana_s01/save/it0-test \\
        --motion load/distill_pose/rana_pose_aa_all --subject-root load/rana/train_p1/subject_01

Reads every frame with the reader of its layout, prints a table, and writes into --output an overlay sheet (the body
over the image, outlines of body and mask, joints; the worst frames last) and report.json. Exit status: 0 fine,
1 errors, 3 warnings with --strict.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from body_models import BodyModel, load_body
from core.errors import InputError
from core.files import write_json_atomically
from core.images import write_image
from data.check.checking import Check, check_side_files
from data.check.layouts import GENDERS, LAYOUTS, Request, open_dataset
from data.check.report import Report, describe_subject
from data.check.sheet import assemble
from data.frame_range import FrameRange
from data.preprocess.command_line import new_parser, positive

logger = logging.getLogger(__name__)

FINE, ERRORS, WARNINGS = 0, 1, 3
"""Exit statuses; 2 is a wrong command line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    report = Report()
    try:
        _check(options, report)
    except InputError as error:
        report.errors.append(str(error))
    if report.rows:
        logger.info("%s\n\n%s\n", options.folder, report.table())
    for text in report.warnings:
        logger.warning("warning: %s", text)
    for text in report.errors:
        logger.error("error: %s", text)
    logger.info("%d errors, %d warnings", len(report.errors), len(report.warnings))
    if report.errors:
        return ERRORS
    return WARNINGS if options.strict and report.warnings else FINE


def _check(options: argparse.Namespace, report: Report) -> None:
    request = Request(
        folder=options.folder,
        layout=options.layout,
        gender=options.gender,
        split=options.split,
        camera=options.camera,
        frames=FrameRange.of(options.frames),
        subject_root=options.subject_root,
        motion=options.motion,
    )
    dataset = open_dataset(request)
    describe_subject(report, dataset, request.gender_is_known or not dataset.posed)
    check_side_files(options.folder, dataset.frames.gender, report)
    body = _body(options, request, dataset.frames.gender, report) if dataset.posed else None
    check = Check(dataset, body, options.least_iou)
    check.run(report)
    tiles = check.tiles(options.tiles, options.tile_height)
    folder = options.output or Path("exp/check") / request.folder.resolve().name
    if tiles:
        write_image(folder / "overlay.png", assemble(tiles, request.folder.as_posix()[-60:]))
        logger.info("wrote %s", folder / "overlay.png")
    agreements = {str(position): asdict(found) for position, found in check.agreements.items()}
    write_json_atomically(folder / "report.json", {**asdict(report), "frames": agreements})


def _body(options: argparse.Namespace, request: Request, gender: str, report: Report) -> BodyModel | None:
    location = options.body_model or request.body_location
    if location == "none":
        return None
    try:
        return load_body(location, gender)
    except InputError as error:
        report.errors.append(f"{error} With --body-model none the folder is checked without its bodies.")
        return None


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("data.check", __doc__)
    parser.add_argument("folder", type=Path, help="one subject, motion or distillation avatar")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), help="default: recognised by its files")
    parser.add_argument("--gender", choices=GENDERS, help="default: as recorded or named, else neutral")
    parser.add_argument("--body-model", help="SMPL files (default: data/SMPLX/smpl), `embedded`, or `none`")
    parser.add_argument("--split", help="PeopleSnapshot: poses of this split, for --frames; SyntheticHuman: test")
    parser.add_argument("--camera", help="which one, where there is a folder for each (default: the first)")
    parser.add_argument("--frames", type=int, nargs="+", metavar="N", help="START STOP [STEP], half-open; default: all")
    parser.add_argument("--motion", type=Path, help="the motion that a distillation avatar was rendered for")
    parser.add_argument("--subject-root", type=Path, help="folder of the subject whose betas a motion wears")
    parser.add_argument("--least-iou", type=float, default=0.7, help="of body and mask, without a warning (0.7)")
    parser.add_argument("--output", type=Path, help="default: exp/check/NAME")
    parser.add_argument("--tiles", type=positive, default=12, help="frames on the sheet (12)")
    parser.add_argument("--tile-height", type=positive, default=360, help="pixels (360)")
    parser.add_argument("--strict", action="store_true", help="warnings end in exit status 3")
    return parser


if __name__ == "__main__":
    sys.exit(main())
