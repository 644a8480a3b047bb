"""Growing and pruning the surfel set: clone, split, prune (3DGS, Kerbl et al. 2023), and refill of holes."""

import torch
from torch import Tensor

from core.rotation import quaternion_to_matrix
from explicit_branch.optimisation import SurfelOptimiser
from explicit_branch.settings import POSITION_RATE_EXTENT, TrainingSettings
from explicit_branch.surfels import Surfels
from gs_ir.nearest import nearest_neighbours

SPLIT_SHRINK = 1.6
RESET_OPACITY = 0.01
REFILL_NEIGHBOURS = 10


class Densifier:
    """Accumulates the screen-space gradient of each surfel and acts on its mean."""

    def __init__(self, optimiser: SurfelOptimiser, settings: TrainingSettings) -> None:
        self.optimiser, self.settings = optimiser, settings
        self.clear()

    @property
    def surfels(self) -> Surfels:
        """The set that grows."""
        return self.optimiser.surfels

    def clear(self) -> None:
        """Start the statistic anew."""
        count, device = len(self.surfels), self.surfels.positions.device
        self.gradient_sum = torch.zeros(count, device=device)
        self.views = torch.zeros(count, device=device)
        self.max_radii = torch.zeros(count, dtype=torch.int32, device=device)

    def observe(self, screen_gradient: Tensor, radii: Tensor) -> None:
        """Add one view: ``screen_gradient`` [N, 2] (student spec 4.6) and ``radii`` [N] in pixels (0 = not drawn)."""
        seen = radii > 0
        self.gradient_sum += torch.where(seen, screen_gradient.norm(dim=-1), 0.0)
        self.views += seen
        self.max_radii = torch.maximum(self.max_radii, radii)

    def is_observing(self, iteration: int) -> bool:
        """Whether the statistic is collected at ``iteration``."""
        return iteration < self.settings.densify_until_iter

    def update(self, iteration: int, generator: torch.Generator) -> bool:
        """Densify, prune or reset where ``iteration`` asks for it; True if the set has changed."""
        settings, changed = self.settings, False
        if not settings.densify_from_iter < iteration < settings.densify_until_iter:
            return False
        if iteration % settings.densification_interval == 0:
            self._grow(generator)
            self._prune(iteration)
            self.clear()
            changed = True
        interval = settings.opacity_reset_interval
        if interval and iteration % interval == 0:
            limit = torch.logit(torch.tensor(RESET_OPACITY)).item()
            self.optimiser.assign("opacity_logits", self.surfels.opacity_logits.detach().clamp_max(limit))
        return changed

    def _grow(self, generator: torch.Generator) -> None:
        surfels, settings = self.surfels, self.settings
        mean = self.gradient_sum / self.views.clamp_min(1)
        chosen = mean >= settings.densify_grad_threshold
        room = settings.max_surfels - len(surfels)
        if room <= 0:
            return
        if int(chosen.sum()) > room:
            chosen = torch.zeros_like(chosen).index_fill_(0, mean.topk(room).indices, True)
        large = surfels.scales.detach().amax(-1) > settings.percent_dense * POSITION_RATE_EXTENT
        raw = surfels.raw()
        cloned = {name: value[chosen & ~large] for name, value in raw.items()}
        split = chosen & large
        children = [_child(raw, split, generator) for _ in range(2)]
        self.optimiser.append({name: torch.cat([cloned[name], *(c[name] for c in children)]) for name in raw})
        added = len(surfels) - len(split)
        self.max_radii = torch.cat([self.max_radii, self.max_radii.new_zeros(added)])
        self._keep(torch.cat([~split, split.new_ones(added)]))

    def _prune(self, iteration: int) -> None:
        surfels, settings = self.surfels, self.settings
        bad = surfels.opacities.detach() < settings.opacity_threshold
        if iteration > settings.size_pruning_from_iter:
            bad |= self.max_radii > settings.max_screen_radius
            bad |= surfels.scales.detach().amax(-1) > 0.1 * POSITION_RATE_EXTENT
        self._keep(~bad)

    def _keep(self, rows: Tensor) -> None:
        self.optimiser.keep(rows)
        self.max_radii = self.max_radii[rows]

    def refill(self, points: Tensor, minimum: float, maximum: float) -> int:
        """Insert surfels where ``points`` [M, 3] of the teacher's surface are not covered; return how many.

        A point is a hole if the mean squared distance to its ten nearest surfels lies in (``minimum``, ``maximum``)
        square metres; the new surfel has the mean of their raw attributes.
        """
        raw = self.surfels.raw()
        squared, indices = nearest_neighbours(points, raw["positions"], min(REFILL_NEIGHBOURS, len(self.surfels)))
        mean = squared.mean(-1)
        holes = ((mean > minimum) & (mean < maximum)).nonzero().squeeze(-1)
        holes = holes[: max(self.settings.max_surfels - len(self.surfels), 0)]
        if holes.numel():
            new = {name: value[indices[holes]].mean(1) for name, value in raw.items()}
            self.optimiser.append({**new, "positions": points[holes]})
            self.clear()
        return int(holes.numel())

    def state_dict(self) -> dict[str, Tensor]:
        """The statistics."""
        return {"gradient_sum": self.gradient_sum, "views": self.views, "max_radii": self.max_radii}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the statistics."""
        self.gradient_sum, self.views, self.max_radii = (
            state[name].to(self.views.device, copy=True) for name in ("gradient_sum", "views", "max_radii")
        )


def far_from(surfels: Surfels, points: Tensor, limit: float = 1e-3) -> Tensor:
    """Surfels [N] bool far from the surface sampled by ``points`` [M, 3].

    Far: the mean squared distance to the ten nearest points exceeds ``limit`` square metres (published: 1e-3), or four
    times what the points have among themselves where they are sparser than that.
    """
    count = min(REFILL_NEIGHBOURS, len(points) - 1)
    among = nearest_neighbours(points, points, count + 1)[0][:, 1:].mean()
    squared, _ = nearest_neighbours(surfels.positions.detach(), points, count)
    return squared.mean(-1) > torch.clamp_min(4 * among, limit)


def _child(raw: dict[str, Tensor], rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    child = {name: value[rows] for name, value in raw.items()}
    offsets = torch.randn(child["log_scales"].shape, generator=generator).to(child["positions"])
    in_plane = offsets * child["log_scales"].exp()
    frames = quaternion_to_matrix(child["quaternions"])
    child["positions"] = child["positions"] + (frames[:, :, :2] * in_plane[:, None]).sum(-1)
    child["log_scales"] = child["log_scales"] - torch.tensor(SPLIT_SHRINK).log()
    return child
