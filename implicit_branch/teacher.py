"""The teacher: canonical fields, articulation, light and proxy mesh as one self-contained module."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from body_models import CanonicalBody
from core.checkpoints import load_weights_only
from core.errors import InputError
from core.frames import BodyPose
from core.protocols import CanonicalSample
from implicit_branch.building import (
    Recipe,
    build_fields,
    build_light,
    build_pose_encoder,
    build_residuals,
    set_boxes,
    settings_from,
)  # fmt: skip
from implicit_branch.deformation.articulation import Articulation, PosedSpace
from implicit_branch.deformation.proxy_mesh import Mesh, ProxyTracer, extract_mesh
from implicit_branch.fields.initialisation import fit_to_mesh, offset_vertices
from implicit_branch.sampling.rays import PrimarySampling

SCHEMA = 1
ARTICULATION_TENSORS = ("weight_volume", "box", "rest_joints", "rest_from_canonical")
QUERY_CHUNK = 2**18


@dataclass(frozen=True)
class SubjectIdentity:
    """Whom a teacher was trained on; compared before it is used for something else."""

    subject: str
    gender: str
    betas: list[float]
    canonical_pose: str | list[float]


class Teacher(nn.Module):
    """A canonical field (:class:`core.protocols.CanonicalField`) with what is needed to pose, render and relight it."""

    def __init__(self, recipe: Recipe, identity: SubjectIdentity, articulation: Articulation, proxy: Mesh) -> None:
        """Assemble from parts; see :meth:`from_body` and :func:`load_teacher`."""
        super().__init__()
        self.recipe, self.identity = recipe, identity
        self.settings = settings_from(recipe)
        self.fields = build_fields(recipe, articulation)
        self.light = build_light(recipe["light"])
        self.pose_encoder = build_pose_encoder(recipe)
        self.residuals = build_residuals(recipe)
        self.proxy, self.proxy_generation = proxy, 0
        self.reference_step = 0.0

    @classmethod
    def from_body(cls, recipe: Recipe, identity: SubjectIdentity, body: CanonicalBody) -> "Teacher":
        """A new teacher around ``body``: fields start as its shape (or as a ball), the proxy as its skin moved out.

        Everything is computed on the device of ``body``, where the teacher is afterwards.
        """
        articulation = Articulation.from_body(body, resolution=recipe["deformer"]["resolution"])
        offset = recipe["model"]["proxy"].get("initial_offset", 0.0)
        teacher = cls(recipe, identity, articulation, Mesh(offset_vertices(body, offset), body.faces))
        teacher = teacher.to(body.vertices.device)
        set_boxes(teacher.fields, body.vertices)
        if recipe["geometry"]["init"] == "body":
            steps = recipe["geometry"]["init_steps"]
            fit_to_mesh(teacher.fields.geometry, teacher.proxy.vertices, body.faces, steps=steps)
        return teacher

    def advance(self, reference_step: float) -> None:
        """Move every step-dependent part to ``reference_step`` of the 25 000-step schedule."""
        self.reference_step = reference_step
        for encoding in (self.fields.geometry.encoding, self.fields.radiance.encoding):
            encoding.open_levels(reference_step)
        self.fields.density.anneal(reference_step / max(1, self.settings.phys_kick_in_step))
        self.residuals.open(reference_step)
        if self.fields.non_rigid is not None:
            self.fields.non_rigid.open(reference_step)

    @property
    def sampling(self) -> PrimarySampling:
        """Densities of primary samples at the present step."""
        early = self.reference_step < self.settings.importance_sample_kick_in_step
        return replace(self.settings.sampling, rounds=0) if early else self.settings.sampling

    def pose_space(self, pose: BodyPose) -> PosedSpace:
        """Prepare the frames of a batched ``pose`` [B, ...] for rendering."""
        proxy = self.settings.proxy
        return self.fields.articulation.pose_space(
            pose,
            self.proxy.vertices,
            radius=proxy.radius if self.proxy_generation else proxy.initial_radius,
            resolution=proxy.seed_resolution,
            condition=self.pose_encoder(pose, self.fields.articulation.rest_joints),
        )

    @property
    def posed_bytes(self) -> int:
        """Memory of one frame of :meth:`pose_space`."""
        nodes = math.prod(self.fields.articulation.weight_volume.shape[:3])
        return 4 * 12 * nodes + (4 * 9 + 1) * self.settings.proxy.seed_resolution**3

    def tracer(self, space: PosedSpace) -> ProxyTracer:
        """Visibility and first hits on the proxy mesh in the frames of ``space``."""
        return ProxyTracer(self.proxy, self.fields.articulation.to_world(self.proxy.vertices, space))

    def refresh_proxy(self) -> bool:
        """Replace the proxy mesh by the present surface where the schedule asks for it; True if it did."""
        proxy = self.settings.proxy
        due = int((self.reference_step - proxy.start_step) // proxy.interval) + 1
        if due <= self.proxy_generation:
            return False
        self.proxy, self.proxy_generation = self.canonical_mesh(proxy.resolution), due
        return True

    def canonical_mesh(self, resolution: int) -> Mesh:
        """The surface in canonical space; ``resolution`` marching-cubes cells along the longest side."""
        pad = 0.1
        low, high = self.proxy.vertices.amin(0) - pad, self.proxy.vertices.amax(0) + pad
        limits = self.fields.geometry.encoding.box
        box = torch.stack([low.maximum(limits[0]), high.minimum(limits[1])])
        return extract_mesh(self.fields.geometry.distance, box, resolution)

    @torch.no_grad()
    def query_canonical(self, points: Tensor) -> CanonicalSample:
        """Distance, unit normal and materials at canonical ``points`` [N, 3]. No gradient."""
        parts = [self._query(part) for part in points.split(QUERY_CHUNK)] or [self._query(points)]
        return CanonicalSample(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _query(self, points: Tensor) -> tuple[Tensor, ...]:
        surface = self.fields.geometry(points)
        material = self.fields.material(self.fields.radiance.appearance(points), surface.features)
        normal = nn.functional.normalize(surface.gradient, dim=-1)
        return surface.sdf, normal, *material

    @torch.no_grad()
    def eval_light(self, directions: Tensor) -> Tensor:
        """Linear radiance [N, 3] of the training light along unit world ``directions`` [N, 3]. No gradient."""
        return self.light.radiance(directions)

    def get_extra_state(self) -> dict[str, Any]:
        """What is not a tensor of fixed shape: the proxy mesh and the schedule's position."""
        return {
            "proxy_vertices": self.proxy.vertices,
            "proxy_faces": self.proxy.faces,
            "proxy_generation": self.proxy_generation,
            "reference_step": self.reference_step,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_extra_state` on the device of the fields."""
        device = self.fields.articulation.box.device
        self.proxy = Mesh(state["proxy_vertices"].to(device), state["proxy_faces"].to(device))
        self.proxy_generation = state["proxy_generation"]
        self.advance(state["reference_step"])

    def _apply(self, fn, recurse: bool = True):
        # Meshes are replaced by ones of other sizes, so they are no buffers and are moved here.
        self.proxy = Mesh(fn(self.proxy.vertices), self.proxy.faces.to(fn(self.proxy.vertices).device))
        return super()._apply(fn, recurse)

    def describe(self) -> dict[str, Any]:
        """The plain data that :func:`load_teacher` rebuilds this teacher from, besides its state."""
        return {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "identity": asdict(self.identity),
            "voxel": self.fields.articulation.voxel,
        }


def load_teacher(path: str | Path, device: torch.device | str) -> Teacher:
    """The teacher of a checkpoint written in training; needs neither configuration nor body model.

    Raises:
        InputError: no such file, not a teacher's checkpoint, or one of another version.
    """
    checkpoint = load_weights_only(path, device)
    described = checkpoint.get("teacher") if isinstance(checkpoint, dict) else None
    if not described or described.get("schema") != SCHEMA:
        raise InputError(path, found="no teacher of this version", expected=f"a teacher checkpoint of schema {SCHEMA}",
                         next_step="Train a teacher with this program (training_mode=teacher).")  # fmt: skip
    state = _without_prefix(checkpoint["state_dict"], "teacher.")
    tensors = {name: state[f"fields.articulation.{name}"] for name in ARTICULATION_TENSORS}
    extra = state["_extra_state"]
    teacher = Teacher(
        described["recipe"],
        SubjectIdentity(**described["identity"]),
        Articulation(**tensors, voxel=described["voxel"]),
        Mesh(extra["proxy_vertices"], extra["proxy_faces"]),
    ).to(device)
    teacher.load_state_dict(state)
    return teacher.eval()


def _without_prefix(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def frame_poses(poses: Iterable[BodyPose]) -> BodyPose:
    """Stack single poses to a batched one."""
    poses = list(poses)
    return BodyPose(
        torch.stack([p.global_orient for p in poses]),
        torch.stack([p.body_pose for p in poses]),
        torch.stack([p.transl for p in poses]),
    )
