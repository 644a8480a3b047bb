"""Adam over a surfel set that grows and shrinks, and over the networks beside it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from explicit_branch.surfels import SHAPES, Surfels

ADAM_EPSILON = 1e-15


class SurfelOptimiser:
    """Adam with one group per raw attribute; rows can be removed and added together with their moments."""

    def __init__(self, surfels: Surfels, rates: dict[str, float]) -> None:
        """Args: rates: learning rate by attribute name."""
        self.surfels = surfels
        groups = [{"params": [getattr(surfels, name)], "lr": rates[name], "name": name} for name in SHAPES]
        self.adam = torch.optim.Adam(groups, eps=ADAM_EPSILON, fused=True)

    def set_rate(self, name: str, rate: float) -> None:
        """Change the learning rate of attribute ``name``."""
        next(g for g in self.adam.param_groups if g["name"] == name)["lr"] = rate

    def step(self) -> None:
        """Apply gradients; rows with a gradient that is not finite stay where they are for this step."""
        for name in SHAPES:
            gradient = getattr(self.surfels, name).grad
            if gradient is not None:
                torch.nan_to_num_(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def discard(self) -> None:
        """Drop gradients without a step."""
        self.adam.zero_grad(set_to_none=True)

    def keep(self, rows: Tensor) -> None:
        """Keep the surfels selected by ``rows`` (bool [N] or indices), drop the others."""
        for name in SHAPES:
            self._replace(name, getattr(self.surfels, name).detach()[rows], lambda moment: moment[rows])

    def append(self, raw: dict[str, Tensor]) -> None:
        """Add surfels with raw attributes ``raw``; their moments start at zero."""
        for name in SHAPES:
            new = raw[name].detach()
            self._replace(
                name,
                torch.cat([getattr(self.surfels, name).detach(), new]),
                lambda moment, new=new: torch.cat([moment, torch.zeros_like(new)]),
            )

    def assign(self, name: str, values: Tensor) -> None:
        """Overwrite attribute ``name`` and zero its moments."""
        self._replace(name, values, torch.zeros_like)

    def _replace(self, name: str, values: Tensor, moments) -> None:
        group = next(g for g in self.adam.param_groups if g["name"] == name)
        old = group["params"][0]
        parameter = nn.Parameter(values.clone())
        state = self.adam.state.pop(old, None)
        if state:
            updated = {k: moments(v) if k in ("exp_avg", "exp_avg_sq") else v for k, v in state.items()}
            self.adam.state[parameter] = updated
        group["params"] = [parameter]
        setattr(self.surfels, name, parameter)

    def state_dict(self) -> dict:
        """Adam's state."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore Adam's state; the surfels must already be the ones it belongs to."""
        self.adam.load_state_dict(state)


class NetworkOptimiser:
    """Adam over network parameters whose rates all decay by ``lr_ratio`` within ``iterations``; clips the gradient."""

    def __init__(self, groups: Iterable[dict], *, lr_ratio: float, iterations: int, grad_clip: float) -> None:
        """Args: groups: Adam parameter groups, each with ``params`` and ``lr``; empty ones are left out."""
        groups = [{**group, "params": list(group["params"])} for group in groups]
        groups = [group for group in groups if group["params"]]
        self.parameters = [p for group in groups for p in group["params"]]
        self.adam = torch.optim.Adam(groups, eps=ADAM_EPSILON, fused=True) if groups else None
        self.decay, self.grad_clip = lr_ratio ** (1 / max(iterations, 1)), grad_clip

    def step(self) -> None:
        """Clip, apply and decay."""
        if self.adam is None:
            return
        nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for group in self.adam.param_groups:
            group["lr"] *= self.decay

    def state_dict(self) -> dict:
        """Adam's state; empty without parameters."""
        return {} if self.adam is None else self.adam.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore Adam's state."""
        if self.adam is not None:
            self.adam.load_state_dict(state)
