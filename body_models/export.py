"""Writes bodies as SMPL pickles that other programs read.

``python -m body_models.export --output FOLDER`` writes the three embedded bodies: the SMPL format, not SMPL.
"""

import argparse
import logging
import os
import pickle
from pathlib import Path

import numpy as np
from scipy.sparse import csc_matrix

from body_models.body import BodyModel, load_body
from body_models.smpl_file import GENDERS

logger = logging.getLogger(__name__)

ROOT_PARENT = 2**32 - 1
"""How the official files store the root's missing parent in an unsigned table."""


def smpl_entries(body: BodyModel) -> dict[str, object]:
    """The dictionary of an SMPL pickle, with the types of the official files."""
    template, regressor = body.v_template.double().cpu().numpy(), body.joint_regressor.double().cpu().numpy()
    parents = body.parents.cpu().numpy().copy()
    parents[0] = ROOT_PARENT
    return {
        "v_template": template,
        "shapedirs": body.shapedirs.double().cpu().numpy(),
        "posedirs": body.posedirs.double().cpu().numpy(),
        "J_regressor": csc_matrix(regressor),
        "J": regressor @ template,
        "weights": body.weights.double().cpu().numpy(),
        "kintree_table": np.stack([parents, np.arange(len(parents))]).astype(np.uint32),
        "f": body.faces.cpu().numpy().astype(np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
        "gender": body.gender,
    }


def write_smpl_pickle(body: BodyModel, path: str | Path) -> Path:
    """Write ``body`` as an SMPL pickle (protocol 2), whole or not at all.

    Read it back with ``body_models.load_body``, or with the ``smplx`` package under the name ``SMPL_<GENDER>.pkl``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as stream:
        pickle.dump(smpl_entries(body), stream, protocol=2)
    os.replace(unfinished, path)
    return path


def export_bodies(folder: str | Path, source: str | Path | None = None) -> list[Path]:
    """Write the bodies of all genders from ``source`` (default: embedded) to ``folder``/SMPL_<GENDER>.pkl."""
    return [
        write_smpl_pickle(load_body(source, gender), Path(folder) / f"SMPL_{gender.upper()}.pkl") for gender in GENDERS
    ]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="folder for SMPL_NEUTRAL.pkl, SMPL_MALE.pkl, SMPL_FEMALE.pkl")
    for written in export_bodies(parser.parse_args().output):
        logger.info("wrote %s (SMPL format, not SMPL)", written)
