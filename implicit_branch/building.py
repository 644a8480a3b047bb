"""From a recipe (plain dictionaries with the configuration's key names) to the teacher's components.

The recipe travels in the checkpoint, so a teacher can be rebuilt without the configuration tree.
"""

from dataclasses import fields as dataclass_fields
from typing import Any

from torch import Tensor

from core.errors import InputError
from implicit_branch.deformation.articulation import Articulation
from implicit_branch.deformation.non_rigid import POSE_ENCODINGS, NonRigidOffsets, PoseEncoding
from implicit_branch.deformation.pose_correction import PoseResiduals
from implicit_branch.fields.density import LaplaceDensity
from implicit_branch.fields.fields import Fields
from implicit_branch.fields.material import MaterialField
from implicit_branch.fields.radiance import RadianceField
from implicit_branch.fields.sdf import SdfField
from implicit_branch.rendering.emitters import LIGHTS, LearnedLight
from implicit_branch.sampling.rays import PrimarySampling
from implicit_branch.settings import ProxySettings, ShadingSettings, TeacherSettings

Recipe = dict[str, Any]
GROUPS = ("geometry", "density", "radiance", "material", "scatterer", "light", "deformer", "non_rigid_deformer",
          "pose_encoder", "pose_correction", "model")  # fmt: skip
"""Configuration groups that a recipe holds."""


def settings_from(recipe: Recipe) -> TeacherSettings:
    """The numbers under ``model`` as settings."""
    model = recipe["model"]
    return TeacherSettings(
        sampling=PrimarySampling(
            step=_diagonal(model["scene_aabb"]) / model["num_samples_per_ray"],
            rounds=model["importance_rounds"],
            samples=model["importance_samples"],
        ),
        proxy=_settings(ProxySettings, model["proxy"]),
        shading=ShadingSettings(
            samples_per_pixel=model["samples_per_pixel"],
            render_mode=model["render_mode"],
            global_illumination=model["global_illumination"],
            resample_light=model["resample_light"],
            add_emitter=model["add_emitter"],
            near=model["secondary_near_plane"],
            far=model["secondary_far_plane"],
            chunk=model["secondary_shader_chunk"],
        ),
        supersampling=model["supersampling"],
        ray_chunk=model["ray_chunk"],
        phys_kick_in_step=model["phys_kick_in_step"],
        importance_sample_kick_in_step=model["importance_sample_kick_in_step"],
    )


def build_fields(recipe: Recipe, articulation: Articulation) -> Fields:
    """The canonical fields on ``articulation``."""
    shape, look = recipe["geometry"], recipe["radiance"]
    # Absent from teachers that were trained before there was a choice.
    half_precision = recipe["model"].get("half_precision", False)
    geometry = SdfField(
        xyz_encoding=shape["xyz_encoding_config"],
        feature_dim=shape["feature_dim"],
        half_precision=half_precision,
        **_network(shape["mlp_network_config"], "weight_norm", "sphere_init_radius"),
    )
    radiance = RadianceField(
        xyz_encoding=look["xyz_encoding_config"],
        geometry_features=geometry.feature_dim,
        sh_degree=look["dir_encoding_config"]["degree"],
        half_precision=half_precision,
        **_network(look["mlp_network_config"]),
    )
    material = MaterialField(
        appearance_features=radiance.encoding.features,
        geometry_features=geometry.feature_dim,
        material_feature=recipe["model"]["material_feature"],
        initial_roughness=recipe["material"]["initial_roughness"],
        initial_metallic=recipe["material"]["initial_metallic"],
        half_precision=half_precision,
        **_network(recipe["material"]["mlp_network_config"]),
    )
    return Fields(
        articulation,
        geometry=geometry,
        density=LaplaceDensity(**_named(recipe["density"], "laplace-density")),
        radiance=radiance,
        material=material,
        non_rigid=_non_rigid(recipe),
    )


def build_light(light: dict[str, Any]) -> LearnedLight:
    """The emitter of configuration group ``light``."""
    keys = dict(light)
    name = keys.pop("name")
    if name not in LIGHTS:
        raise _unknown("light.name", name, LIGHTS)
    return LIGHTS[name](**keys)


def build_pose_encoder(recipe: Recipe) -> PoseEncoding:
    """The encoder of configuration group ``pose_encoder``."""
    name = recipe["pose_encoder"]["name"]
    if name not in POSE_ENCODINGS:
        raise _unknown("pose_encoder.name", name, POSE_ENCODINGS)
    return POSE_ENCODINGS[name]()


def build_residuals(recipe: Recipe) -> PoseResiduals:
    """The per-frame pose table of configuration group ``pose_correction``."""
    return PoseResiduals(**_named(recipe["pose_correction"], "pose-residual"))


def set_boxes(fields: Fields, vertices: Tensor) -> None:
    """Centre the encodings' cube on canonical ``vertices`` [V, 3], 1.2 times their largest half-extent."""
    low, high = vertices.amin(0), vertices.amax(0)
    half = 0.6 * (high - low).max()
    for encoding in (fields.geometry.encoding, fields.radiance.encoding):
        encoding.box[0] = (low + high) / 2 - half
        encoding.box[1] = (low + high) / 2 + half


def _non_rigid(recipe: Recipe) -> NonRigidOffsets | None:
    keys = dict(recipe["non_rigid_deformer"])
    name = keys.pop("name")
    if name == "dummy":
        return None
    if name != "mlp":
        raise _unknown("non_rigid_deformer.name", name, ("dummy", "mlp"))
    features = build_pose_encoder(recipe).features
    return NonRigidOffsets(condition_features=features, **keys)


def _network(keys: dict[str, Any], *more: str) -> dict[str, Any]:
    return {key: keys[key] for key in ("n_neurons", "n_hidden_layers", *more)}


def _settings(kind: type, keys: dict[str, Any]) -> Any:
    known = {f.name for f in dataclass_fields(kind)}
    unknown = sorted(set(keys) - known)
    if unknown:
        raise _unknown("model.proxy", ", ".join(unknown), sorted(known))
    return kind(**keys)


def _named(keys: dict[str, Any], expected: str) -> dict[str, Any]:
    keys = dict(keys)
    name = keys.pop("name")
    if name != expected:
        raise _unknown("name", name, (expected,))
    return keys


def _unknown(source: str, found: str, known) -> InputError:
    return InputError(source, found=repr(found), expected=f"one of {', '.join(known)}",
                      next_step="Choose an option of that configuration group.")  # fmt: skip


def _diagonal(aabb: list[float]) -> float:
    return sum((high - low) ** 2 for low, high in zip(aabb[:3], aabb[3:], strict=True)) ** 0.5
