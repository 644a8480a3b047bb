"""Makes captures of synthetic subjects with known geometry, materials and lights.

    python -m data.synthetic.generate subject --gender male --betas 0 1 --output exp/synthetic/subject.npz
    python -m data.synthetic.generate capture --subject exp/synthetic/subject.npz --output exp/synthetic/load
    python -m data.synthetic.generate bodies --output exp/synthetic/bodies

`subject` and `bodies` need the package anny, `capture` needs mitsuba. An interrupted capture goes on where it stopped.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from body_models.skeleton import BETAS
from body_models.smpl_file import EMBEDDED_BODIES, GENDERS
from core.errors import InputError
from data.synthetic.capture import Plan, capture
from data.synthetic.render import Quality

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        logger.error("%s", error)
        return 1
    return 0


def _bodies(options: argparse.Namespace) -> None:
    from data.synthetic.body_fit import make_bodies

    make_bodies(options.output, tuple(options.genders), options.seed)


def _subject(options: argparse.Namespace) -> None:
    from data.synthetic.body_fit import base_mesh
    from data.synthetic.subject import dress

    body_file = options.body or EMBEDDED_BODIES / f"{options.gender}.npz"
    betas = np.zeros(BETAS)
    betas[: len(options.betas)] = options.betas[:BETAS]
    dressed = dress(base_mesh(body_file, options.gender), body_file, options.gender, betas, options.style)
    dressed.save(options.output)
    logger.info("wrote %s: %d vertices", options.output, len(dressed.vertices))


def _capture(options: argparse.Namespace) -> None:
    plan = Plan(
        name=options.name,
        size=options.size,
        train_frames=options.train_frames,
        test_frames=options.test_frames,
        turns=options.turns,
        seed=options.seed,
        light=options.light,
        relights=tuple(options.relights),
        train_quality=Quality(samples=options.samples),
        test_quality=Quality(samples=options.test_samples),
    )
    capture(options.subject, options.output, plan, peoplesnapshot=options.peoplesnapshot)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m data.synthetic.generate", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="{subject, capture, bodies}")
    shows_defaults = argparse.ArgumentDefaultsHelpFormatter

    subject = commands.add_parser("subject", help="clothe a body", formatter_class=shows_defaults)
    subject.set_defaults(run=_subject)
    subject.add_argument("--output", type=Path, required=True, help="the .npz to write")
    subject.add_argument("--gender", choices=GENDERS, default="male", help="of the body")
    subject.add_argument("--betas", type=float, nargs="+", default=[0.0], help="up to ten shape coefficients")
    subject.add_argument("--style", type=int, choices=(0, 1), default=0, help="colours of clothes, skin and hair")
    subject.add_argument("--body", type=Path, help="a body made by 'bodies' (default: the embedded one)")

    plan = Plan()
    taken = commands.add_parser("capture", help="render a subject", formatter_class=shows_defaults)
    taken.set_defaults(run=_capture)
    taken.add_argument("--subject", type=Path, required=True, help="the .npz that 'subject' wrote")
    taken.add_argument("--output", type=Path, required=True, help="becomes a load/ folder: rana/, peoplesnapshot/")
    taken.add_argument("--name", default=plan.name, help="name of the subject's folders")
    taken.add_argument("--size", type=int, default=plan.size, help="width and height in pixels")
    taken.add_argument("--train-frames", type=int, default=plan.train_frames, help="views of the turning subject")
    taken.add_argument("--test-frames", type=int, default=plan.test_frames, help="novel poses under other lights")
    taken.add_argument("--turns", type=float, default=plan.turns, help="full turns during the training frames")
    taken.add_argument("--seed", type=int, default=plan.seed, help="of the motions")
    taken.add_argument("--light", default=plan.light, help="of the training frames: bundled name, .hdr or .exr file")
    taken.add_argument("--relights", nargs="+", default=list(plan.relights), help="lights of the test frames, in turn")
    taken.add_argument("--samples", type=int, default=plan.train_quality.samples, help="per pixel, training frames")
    taken.add_argument("--test-samples", type=int, default=plan.test_quality.samples, help="per pixel, test frames")
    taken.add_argument("--no-peoplesnapshot", dest="peoplesnapshot", action="store_false", help="RANA layout only")

    bodies = commands.add_parser("bodies", help="make bodies in the SMPL format", formatter_class=shows_defaults)
    bodies.set_defaults(run=_bodies)
    bodies.add_argument("--output", type=Path, required=True, help="folder for <gender>.npz")
    bodies.add_argument("--genders", nargs="+", choices=GENDERS, default=list(GENDERS), help="which")
    bodies.add_argument("--seed", type=int, default=0, help="of the sampled shapes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
