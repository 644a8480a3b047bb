"""Training steps as CUDA graphs: what has the same shapes step after step is launched as one."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.cuda_graphs import GraphPool, beside, first_cause, recording
from core.frames import BodyPose, Frame
from explicit_branch.avatar import Avatar
from explicit_branch.deformation.deformation import Deformation
from explicit_branch.deformation.non_rigid import Rigid
from explicit_branch.deformation.pose_correction import KeepPose
from explicit_branch.observation import MAPS, Observation
from explicit_branch.rendering.appearance import CanonicalViewHead

_log = logging.getLogger(__name__)

STEADY_STEPS = 1
"""Steps of one kind that run as usual before the next is recorded: by then everything that is kept is there."""


class Outcome(NamedTuple):
    """What a differentiated view leaves beside the gradients of the parameters."""

    names: list[str]
    """Of the terms."""
    values: Tensor
    """[T] weighted terms."""
    screen_gradient: Tensor | None
    """[N, 2]"""
    radii: Tensor
    """[N] pixels."""
    instances: Tensor
    """[] pairs of surfel and tile."""


def is_recordable(avatar: Avatar) -> bool:
    """Whether nothing in a step depends on the frame or the iteration but through tensors."""
    deformation = avatar.deformation
    return (
        isinstance(deformation.non_rigid, Rigid)
        and isinstance(deformation.pose_correction, KeepPose)
        and not deformation.skinning.trainable
        and not isinstance(avatar.appearance, CanonicalViewHead)
    )


class Slot:
    """One place in memory where observations of one kind are put before a step looks at them."""

    def __init__(self, like: Observation, deformation: Deformation) -> None:
        """A place for observations with the camera and the maps of ``like``, posed by ``deformation``."""
        self._deformation = deformation
        frame, maps = _copied(like.frame, ("image", "mask")), None if like.maps is None else _copied(like.maps, MAPS)
        self.observation = replace(like, frame=frame, maps=maps, view_axes=like.view_axes.clone())
        self.observation.keep([_cloned(x) for x in like.derived()])
        self._bones = tuple(x.clone() for x in (deformation.bones(like.frame.pose),
                                                deformation.part_from_world(like.frame.pose)))  # fmt: skip
        deformation.place(frame.pose, *self._bones)
        self._tensors = _tensors(self.observation)

    def fill(self, seen: Observation) -> Observation:
        """Copy ``seen`` to this place; returns what lies there."""
        pose, deformation = seen.frame.pose, self._deformation
        bones = (deformation.bones(pose), deformation.part_from_world(pose))
        torch._foreach_copy_([*self._tensors, *self._bones], [*_tensors(seen), *bones])
        return self.observation


@dataclass(frozen=True)
class _Recording:
    slot: Slot
    graph: Any
    outcome: Outcome
    gradients: list[Tensor | None]
    gathered: list[Tensor | None]


class StepRecorder:
    """Differentiates views; where ``enabled``, records that per kind of view and replays the recording.

    A recording reads and writes the same memory every time: what changes from step to step must be changed in place or
    be part of the view's kind, and whatever replaces tensors must call :meth:`forget`.
    """

    def __init__(self, deformation: Deformation, *, enabled: bool) -> None:
        self._deformation, self._enabled = deformation, enabled
        self._steady: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool: GraphPool | None = None

    def forget(self) -> None:
        """Drop all recordings: memory that they read is going to be replaced."""
        self._steady, self._recordings = {}, {}

    def run(
        self,
        kind: Hashable,
        seen: Observation,
        differentiate: Callable[[Observation], Outcome],
        *,
        parameters: Sequence[Tensor],
        gathering: Sequence[Tensor],
    ) -> Outcome:
        """Differentiate ``seen``.

        Args:
            kind: what distinguishes views that run different operators, shapes or constants; None: do not record.
            seen: the view.
            differentiate: adds the gradients of an observation.
            parameters: whose gradients are those of this view alone.
            gathering: leaves whose gradients add up over several steps.
        """
        if not self._enabled or kind is None:
            return differentiate(seen)
        made = self._recordings.get(kind)
        if made is None:
            self._steady[kind] = self._steady.get(kind, 0) + 1
            if self._steady[kind] <= STEADY_STEPS:
                return differentiate(seen)
            made = self._record(seen, differentiate, parameters, gathering)
        if made is None:
            return differentiate(seen)
        self._recordings[kind] = made
        made.slot.fill(seen)
        made.graph.replay()
        for parameter, gradient in zip(parameters, made.gradients, strict=True):
            parameter.grad = gradient
        for leaf, gradient in zip(gathering, made.gathered, strict=True):
            _add_gradient(leaf, gradient)
        return made.outcome

    def _record(
        self,
        seen: Observation,
        differentiate: Callable[[Observation], Outcome],
        parameters: Sequence[Tensor],
        gathering: Sequence[Tensor],
    ) -> _Recording | None:
        """Record a view without changing any gradient; None, and never again, where it cannot be recorded."""
        self._pool = self._pool or GraphPool(seen.view_axes.device)
        slot, graph = Slot(seen, self._deformation), torch.cuda.CUDAGraph()
        leaves = [*parameters, *gathering]
        before = [leaf.grad for leaf in leaves]
        try:
            with beside(self._pool.stream):
                _without_gradients(leaves)
                differentiate(slot.observation)
            _without_gradients(leaves)
            with recording(graph, self._pool):
                outcome = differentiate(slot.observation)
            gradients = [leaf.grad for leaf in leaves]
        except RuntimeError as error:
            _log.warning("training steps are not recorded as CUDA graphs: %s", first_cause(error))
            self._enabled = False
            return None
        finally:
            for leaf, gradient in zip(leaves, before, strict=True):
                leaf.grad = gradient
        count = len(parameters)
        return _Recording(slot, graph, outcome, gradients[:count], gradients[count:])


def _without_gradients(leaves: Sequence[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def _add_gradient(leaf: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    if leaf.grad is None:
        leaf.grad = gradient.clone()
    else:
        leaf.grad += gradient


def _copied(frame: Frame, images: Sequence[str]) -> Frame:
    pose = frame.pose
    own = BodyPose(pose.global_orient.clone(), pose.body_pose.clone(), pose.transl.clone())
    own_images: dict[str, Any] = {name: _cloned(getattr(frame, name)) for name in images}
    return replace(frame, pose=own, **own_images)


def _cloned(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _tensors(seen: Observation) -> list[Tensor]:
    """Everything of an observation that differs from frame to frame, in a fixed order."""
    pose, maps = seen.frame.pose, seen.maps
    images = [seen.frame.image, seen.frame.mask, *(getattr(maps, name) for name in MAPS if maps is not None)]
    found = [pose.global_orient, pose.body_pose, pose.transl, seen.view_axes, *images, *seen.derived()]
    return [x for x in found if x is not None]
