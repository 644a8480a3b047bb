"""Stage 2: the teacher renders itself, with all maps, in the frames of a dataset or motion."""

import logging

from omegaconf import DictConfig

from core.errors import InputError
from implicit_branch.building import settings_from
from implicit_branch.rendering.emitters import TextureLight
from implicit_branch.rendering.frame import Illumination
from implicit_branch.settings import TeacherSettings
from implicit_branch.teacher import Teacher
from workflows.build_data import implicit_frames
from workflows.build_teacher import trained_teacher
from workflows.device import compute_device
from workflows.paths import StagePaths
from workflows.teacher_maps import write_maps
from workflows.train_teacher import export

_log = logging.getLogger(__name__)

SPLIT_OF_MODE = {"test": "test", "validate": "val", "predict": "train"}
FOLDER_OF_MODE = {"test": "it0-test", "validate": "it0-val", "predict": "it0-predict"}


def render(config: DictConfig) -> None:
    """Render the split that ``implicit_branch.mode`` names (``test``, ``validate``, ``predict``) into the run's folder.

    Raises:
        InputError: no teacher, another subject's teacher, or bad data.
    """
    branch, paths = config.implicit_branch, StagePaths(config)
    frames = implicit_frames(config, SPLIT_OF_MODE[branch.mode])
    teacher = trained_teacher(config, frames, compute_device())
    teacher.settings = _settings(config, teacher)
    illumination, light = _illumination(config, teacher)
    folder = paths.save_dir / FOLDER_OF_MODE[branch.mode]
    step = round(teacher.reference_step)
    checkpoint = paths.teacher_checkpoint
    write_maps(teacher, frames, folder, step=step, checkpoint=checkpoint, illumination=illumination, light=light)
    if branch.mode == "test":
        export(teacher, paths.save_dir, step=0, resolution=branch.geometry.isosurface.resolution)
    _log.info("wrote %d frames to %s", len(frames), folder)


RENDERING_KEYS = (
    "samples_per_pixel",
    "render_mode",
    "global_illumination",
    "resample_light",
    "add_emitter",
    "supersampling",
    "ray_chunk",
    "secondary_near_plane",
    "secondary_far_plane",
    "secondary_shader_chunk",
)
"""Keys of ``implicit_branch.model`` that say how to render; the others belong to the trained teacher."""


def _settings(config: DictConfig, teacher: Teacher) -> TeacherSettings:
    """The teacher's settings with this run's rendering keys."""
    chosen = {key: config.implicit_branch.model[key] for key in RENDERING_KEYS}
    return settings_from({**teacher.recipe, "model": {**teacher.recipe["model"], **chosen}})


def _illumination(config: DictConfig, teacher: Teacher) -> tuple[Illumination, str]:
    """The training light, or the HDRI of the dataset where there is one."""
    branch = config.implicit_branch
    path = branch.dataset.get("hdri_filepath")
    if path is None:
        if branch.light.name != "envlight-SG":
            raise InputError(
                "implicit_branch.dataset.hdri_filepath",
                found="nothing",
                expected="the HDRI to relight with",
                next_step="Pass implicit_branch.dataset.hdri_filepath=FILE.hdr, or leave the light group alone.",
            )
        return Illumination.of_training(teacher), "training"
    light = TextureLight(hdr_filepath=path, xyz2lonlat_mode=branch.light.get("xyz2lonlat_mode"))
    light = light.to(teacher.fields.articulation.box.device)
    return Illumination.of_environment(teacher, light, samples_per_pixel=branch.model.samples_per_pixel), str(path)
