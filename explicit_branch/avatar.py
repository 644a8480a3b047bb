"""The student: surfels, how they move, how they look, the light they were trained under, and their occlusion probes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from body_models.body import BodyModel
from body_models.canonical import CanonicalBody
from core.checkpoints import check_metadata, load_weights_only, save_atomically
from core.errors import InputError
from explicit_branch.components import build
from explicit_branch.deformation.deformation import Deformation
from explicit_branch.rendering.appearance import AppearanceHead
from explicit_branch.rendering.probes import OcclusionProbes
from explicit_branch.rendering.raster_pass import RasterRules
from explicit_branch.rendering.shading import ShadingOptions
from explicit_branch.surfels import Surfels

SCHEMA = 1
KIND = "surfel-avatar"

DEFAULT_COMPONENTS: dict[str, dict[str, Any]] = {
    "rigid": {"_target_": "explicit_branch.deformation.rigid.NearestVertices", "neighbours": 7},
    "non_rigid": {"_target_": "explicit_branch.deformation.non_rigid.Rigid"},
    "pose_correction": {"_target_": "explicit_branch.deformation.pose_correction.KeepPose"},
    "texture": {"_target_": "explicit_branch.rendering.appearance.ReflectionHead"},
}
"""The published defaults: what moves and colours the surfels."""


@dataclass
class AvatarRecord:
    """Where an avatar comes from; travels with its checkpoint."""

    subject: str
    gender: str
    betas: list[float]
    canonical_pose: str
    frames: int
    """Training frames: rows of the per-frame tables."""
    components: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(DEFAULT_COMPONENTS))
    provenance: dict[str, Any] = field(default_factory=dict)
    """Plain values: hash of the teacher, seed, configuration, ..."""
    iteration: int = 0
    rendering: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``RasterRules``; the published ones differ from the defaults."""
    shading: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``ShadingOptions``, under which the materials are fitted."""

    @property
    def raster_rules(self) -> RasterRules:
        """How the surfels become pixels."""
        return RasterRules(**self.rendering)

    @property
    def shading_options(self) -> ShadingOptions:
        """How the surfels reflect light."""
        return ShadingOptions(**self.shading)


class Avatar(nn.Module):
    """A relightable body made of surfels."""

    def __init__(self, surfels: Surfels, body: CanonicalBody, record: AvatarRecord) -> None:
        """Args: body: canonical body on the device of the surfels; record: names the modules to build."""
        super().__init__()
        self.surfels, self.record = surfels, record
        device = surfels.positions.device
        self.deformation = build_deformation(body, record).to(device)
        self.appearance = build_appearance(record).to(device)
        self.training_light: Tensor | None = None
        """[6, R, R, 3] linear radiance of the light during training."""
        self.probes: OcclusionProbes | None = None

    @property
    def body(self) -> CanonicalBody:
        """The canonical body."""
        return self.deformation.body

    def refresh(self) -> None:
        """Forget what was cached about the surfels: they have moved, or their set has changed."""
        self.deformation.refresh()

    def state(self) -> dict[str, Any]:
        """Tensors and plain containers that ``avatar_from_state`` needs, and nothing else."""
        record = self.record
        networks = {name: value for name, value in self.state_dict().items() if not name.startswith("surfels.")}
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "record": {name: getattr(record, name) for name in record.__dataclass_fields__},
            "body": _body_state(self.body),
            "surfels": self.surfels.raw(),
            "networks": networks,
            "training_light": self.training_light,
            "probes": None if self.probes is None else self.probes.state(),
        }

    def save(self, path: str | Path, **extra: Any) -> None:
        """Write a self-contained checkpoint; ``extra`` entries (the trainer's state) are ignored by ``load_avatar``."""
        save_atomically({**self.state(), **extra}, path)


def build_deformation(body: CanonicalBody, record: AvatarRecord) -> Deformation:
    """The deformation that ``record`` names, for ``body``."""
    chosen = record.components
    return Deformation(
        body,
        skinning=build(chosen["rigid"], body=body),
        non_rigid=build(chosen["non_rigid"], body=body),
        pose_correction=build(chosen["pose_correction"], frames=record.frames),
    )


def build_appearance(record: AvatarRecord) -> AppearanceHead:
    """The appearance head that ``record`` names."""
    return build(record.components["texture"], frames=record.frames)


def avatar_from_state(state: Mapping[str, Any], device: torch.device | str) -> Avatar:
    """Rebuild an avatar from ``Avatar.state``."""
    record = AvatarRecord(**state["record"])
    body = _body_from_state(state["body"], record).to(device)
    surfels = Surfels({name: value.to(device) for name, value in state["surfels"].items()})
    avatar = Avatar(surfels, body, record)
    missing, unexpected = avatar.load_state_dict(state["networks"], strict=False)
    missing = [name for name in missing if not name.startswith("surfels.")]
    if missing or unexpected:
        raise ValueError(f"avatar: missing {missing}, unexpected {unexpected} network parameters")
    light, probes = state["training_light"], state["probes"]
    avatar.training_light = None if light is None else light.to(device)
    avatar.probes = None if probes is None else OcclusionProbes.from_state(probes).to(device)
    return avatar


def read_state(path: str | Path, **expected: Any) -> dict[str, Any]:
    """The content of a student checkpoint.

    Args:
        path: ``ckpt{N}.pth``.
        expected: metadata that must agree where not None: subject, gender, canonical_pose, betas.

    Raises:
        InputError: no file, another kind of file, a newer schema, or another subject.
    """
    state = load_weights_only(path)
    if not isinstance(state, dict) or state.get("kind") != KIND or state.get("schema") != SCHEMA:
        found = f"kind {state.get('kind')!r}, schema {state.get('schema')!r}" if isinstance(state, dict) else "a tuple"
        raise InputError(
            path,
            found=found,
            expected=f"a student checkpoint, kind {KIND!r}, schema {SCHEMA}",
            next_step="Train the student with this version (training_mode=distill).",
        )
    check_metadata(state["record"], expected, path)
    return state


def load_avatar(path: str | Path, device: torch.device | str = "cpu", **expected: Any) -> Avatar:
    """Load an avatar from a checkpoint; arguments and errors as for ``read_state``."""
    return avatar_from_state(read_state(path, **expected), device).requires_grad_(False).eval()


def _body_state(body: CanonicalBody) -> dict[str, Tensor]:
    """The shaped body: what skinning needs, without blend shapes."""
    model = body.body
    shaped = model.v_template + (model.shapedirs * body.betas).sum(-1)
    tensors = {"v_template": shaped, "joint_regressor": model.joint_regressor, "weights": model.weights,
               "faces": model.faces, "parents": model.parents}  # fmt: skip
    return {name: value.detach().cpu() for name, value in tensors.items()}


def _body_from_state(state: Mapping[str, Tensor], record: AvatarRecord) -> CanonicalBody:
    template = state["v_template"]
    shaped = BodyModel(
        **state,
        shapedirs=template.new_zeros(*template.shape, 10),
        posedirs=template.new_zeros(*template.shape, 0),
        gender=record.gender,
    )
    return CanonicalBody(shaped, template.new_zeros(10), record.canonical_pose)
