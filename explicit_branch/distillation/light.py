"""Light distillation: a cube map that starts as the teacher's light, stays near it, and refines it a little."""

from dataclasses import replace

import torch
from torch import Tensor

from core.protocols import CanonicalField
from gs_ir.cubemap import PrefilteredLight, texel_directions, texel_solid_angles
from gs_ir.prefiltering import prefilter


class LightFitter:
    """The light of the training frames.

    Shading reads the prefiltered maps, which are leaves: their gradients gather over ``interval`` steps and then go
    through the prefilter once, so that its cost does not enter every step.
    """

    def __init__(self, base: Tensor, target: Tensor | None, *, rate: float, interval: int) -> None:
        """Set up.

        Args:
            base: [6, R, R, 3] initial linear radiance.
            target: [6, R, R, 3] the teacher's radiance, the anchor; None without a teacher.
            rate: learning rate.
            interval: steps between updates.
        """
        self.base, self.target, self.interval = base.clone().requires_grad_(), target, interval
        self.adam = torch.optim.Adam([self.base], lr=rate, fused=True)
        angles = texel_solid_angles(base.shape[1], dtype=base.dtype, device=base.device)
        self.solid_angles = (angles / angles.mean())[..., None]
        self.light = self._prefiltered()

    def _prefiltered(self) -> PrefilteredLight:
        with torch.no_grad():
            light = prefilter(self.base)
        for leaf in (*light.mips, light.irradiance_sh):
            leaf.requires_grad_()
        return light

    @property
    def leaves(self) -> list[Tensor]:
        """The prefiltered maps and coefficients; updates change them in place."""
        return [*self.light.mips, self.light.irradiance_sh]

    @torch.no_grad()
    def _renew(self) -> None:
        """Filter the light anew, into the same leaves."""
        fresh = prefilter(self.base)
        for leaf, value in zip(self.leaves, [*fresh.mips, fresh.irradiance_sh], strict=True):
            leaf.copy_(value)
            leaf.grad = None
        self.light = replace(self.light, source=fresh.source, _cells={})

    def seen(self, *, learning: bool) -> PrefilteredLight:
        """The light to shade with; gathers gradients only while it is ``learning``."""
        light = self.light
        if learning:
            return light
        return replace(light, mips=[x.detach() for x in light.mips], irradiance_sh=light.irradiance_sh.detach())

    def distance(self) -> Tensor:
        """Mean squared difference to the teacher's light over the sphere of directions (weighted by solid angle)."""
        if self.target is None:
            return self.base.sum() * 0
        return ((self.base - self.target) ** 2 * self.solid_angles).mean()

    def variation(self) -> Tensor:
        """Mean squared difference of neighbouring texels of a face."""
        return self.base.diff(dim=1).square().mean() + self.base.diff(dim=2).square().mean()

    def update(self, *, anchor: float, smoothness: float) -> None:
        """Send the gathered gradients through the prefilter and take one step; radiance stays non-negative."""
        fresh = prefilter(self.base)
        outputs = [*fresh.mips, fresh.irradiance_sh]
        received = [
            (o, x.grad / self.interval) for o, x in zip(outputs, self.leaves, strict=True) if x.grad is not None
        ]
        regular = anchor * self.distance() + smoothness * self.variation()
        torch.autograd.backward([regular, *(o for o, _ in received)], [None, *(g for _, g in received)])  # type: ignore[list-item]
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.base.clamp_(min=0)
        self._renew()

    def state_dict(self) -> dict:
        """Cube map, optimiser and what has been gathered since the last update."""
        gathered = [x.grad for x in self.leaves]
        return {"base": self.base.detach(), "adam": self.adam.state_dict(), "gathered": gathered}

    def load_state_dict(self, state: dict) -> None:
        """Restore ``state_dict``."""
        with torch.no_grad():
            self.base.copy_(state["base"])
        self.adam.load_state_dict(state["adam"])
        self._renew()
        for leaf, gradient in zip(self.leaves, state["gathered"], strict=True):
            leaf.grad = None if gradient is None else gradient.to(leaf)


def teacher_light(teacher: CanonicalField, resolution: int, like: Tensor) -> Tensor:
    """The teacher's light at the texels of a cube map, linear radiance [6, R, R, 3]."""
    directions = texel_directions(resolution, dtype=like.dtype, device=like.device)
    radiance = teacher.eval_light(directions.reshape(-1, 3))
    return radiance.reshape(6, resolution, resolution, 3).clamp_min(0).to(like)
