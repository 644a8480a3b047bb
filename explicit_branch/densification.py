"""Growing and pruning the surfel set: by detail, or clone and split (3DGS, Kerbl et al. 2023); and refill of holes."""

import math

import torch
from torch import Tensor

from core.rotation import quaternion_to_matrix
from explicit_branch.optimisation import SurfelOptimiser
from explicit_branch.settings import POSITION_RATE_EXTENT, TrainingSettings
from explicit_branch.surfels import Surfels
from gs_ir.nearest import nearest_neighbours

RULES = ("detail", "published")
SPLIT_SHRINK = 1.6
SPLIT_OFFSET = 0.5
"""Standard deviations between a surfel's centre and its halves': together they cover what it did, with its opacity."""
RESET_OPACITY = 0.01
REFILL_NEIGHBOURS = 10
STATISTICS = ("gradient_sum", "views", "max_radii", "finest_pixel")


class Densifier:
    """Accumulates the screen-space gradient of each surfel and acts on its mean."""

    def __init__(self, optimiser: SurfelOptimiser, settings: TrainingSettings) -> None:
        if settings.densify_rule not in RULES:
            raise ValueError(f"densify_rule: {' | '.join(RULES)} expected, found {settings.densify_rule!r}")
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
        self.finest_pixel = torch.full((), math.inf, device=device)

    def observe(self, screen_gradient: Tensor, radii: Tensor, pixel_size: Tensor) -> None:
        """Add one view.

        Args:
            screen_gradient: [N, 2] gradient by the projected centre (student spec 4.6).
            radii: [N] pixels (0 = not drawn).
            pixel_size: [] metres on the body that a pixel of the view shows.
        """
        seen = radii > 0
        self.gradient_sum += torch.where(seen, screen_gradient.norm(dim=-1), 0.0)
        self.views += seen
        self.max_radii = torch.maximum(self.max_radii, radii)
        self.finest_pixel = torch.minimum(self.finest_pixel, pixel_size)

    def is_observing(self, iteration: int) -> bool:
        """Whether the statistic is collected at ``iteration``."""
        return iteration < self.settings.densify_until_iter

    def update(self, iteration: int, generator: torch.Generator) -> bool:
        """Densify, prune or reset where ``iteration`` asks for it; True if the set has changed."""
        settings, changed = self.settings, False
        if not settings.densify_from_iter < iteration < settings.densify_until_iter:
            return False
        if iteration % settings.densification_interval == 0:
            before = len(self.surfels)
            grown = self._split_details() if settings.densify_rule == "detail" else self._grow(generator)
            changed = self._prune(iteration) or grown > 0 or len(self.surfels) != before
            self.clear()
        interval = settings.opacity_reset_interval
        if interval and iteration % interval == 0:
            limit = torch.logit(torch.tensor(RESET_OPACITY)).item()
            self.optimiser.assign("opacity_logits", self.surfels.opacity_logits.detach().clamp_max(limit))
            changed = True
        return changed

    def _split_details(self) -> int:
        """Split what holds back the picture: surfels with more error than most that are coarser than its pixels.

        The error is compared with its mean over the surface, so that no weight of a loss, no size of a picture and no
        number of surfels enters; what is as fine as the pixels stays. So the set stops growing when errors are evenly
        spread, or it can show no more. Returns how many were split.
        """
        surfels, settings = self.surfels, self.settings
        seen = self.views > 0
        mean = self.gradient_sum / self.views.clamp_min(1)
        area = torch.where(seen, surfels.scales.detach().prod(-1), 0)
        level = (mean * area).sum() / area.sum().clamp_min(1e-12)
        coarse = surfels.scales.detach().amax(-1) > settings.densify_pixels * self.finest_pixel
        chosen = seen & coarse & (mean > settings.densify_contrast * level)
        turns = (settings.densify_until_iter - settings.densify_from_iter) / settings.densification_interval
        share = settings.densify_growth ** (1 / max(turns, 1)) - 1
        room = min(settings.max_surfels - len(surfels), math.ceil(share * len(surfels)))
        rows = torch.where(chosen, mean, -1).topk(max(0, min(room, int(chosen.sum())))).indices
        if len(rows):
            self._append(_halves({name: value[rows] for name, value in surfels.raw().items()}))
            self._keep(torch.ones_like(self.max_radii, dtype=torch.bool).index_fill_(0, rows, False))
        return len(rows)

    def _grow(self, generator: torch.Generator) -> int:
        """Clone small surfels and split large ones where the mean gradient exceeds the threshold; returns how many."""
        surfels, settings = self.surfels, self.settings
        mean = self.gradient_sum / self.views.clamp_min(1)
        chosen = mean >= settings.densify_grad_threshold
        room = settings.max_surfels - len(surfels)
        if room <= 0:
            return 0
        if int(chosen.sum()) > room:
            chosen = torch.zeros_like(chosen).index_fill_(0, mean.topk(room).indices, True)
        large = surfels.scales.detach().amax(-1) > settings.percent_dense * POSITION_RATE_EXTENT
        raw = surfels.raw()
        cloned = {name: value[chosen & ~large] for name, value in raw.items()}
        split = chosen & large
        children = [_child(raw, split, generator) for _ in range(2)]
        self._append({name: torch.cat([cloned[name], *(c[name] for c in children)]) for name in raw})
        self._keep(torch.cat([~split, split.new_ones(len(surfels) - len(split))]))
        return int(chosen.sum())

    def _append(self, raw: dict[str, Tensor]) -> None:
        """Add surfels; they have not been seen yet."""
        self.optimiser.append(raw)
        self.max_radii = torch.cat([self.max_radii, self.max_radii.new_zeros(len(raw["positions"]))])

    def _prune(self, iteration: int) -> bool:
        """Remove what is transparent or huge; True if there was any."""
        surfels, settings = self.surfels, self.settings
        bad = surfels.opacities.detach() < settings.opacity_threshold
        if iteration > settings.size_pruning_from_iter:
            bad |= self.max_radii > settings.max_screen_radius
            bad |= surfels.scales.detach().amax(-1) > 0.1 * POSITION_RATE_EXTENT
        if not bool(bad.any()):
            return False
        self._keep(~bad)
        return True

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
        return {name: getattr(self, name) for name in STATISTICS}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the statistics."""
        for name in STATISTICS:
            setattr(self, name, state[name].to(self.views.device, copy=True))


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


def _halves(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each surfel as two, side by side along its longer axis, which shrinks: [2 N]."""
    longer = torch.nn.functional.one_hot(raw["log_scales"].argmax(-1), 2).to(raw["log_scales"])
    frames = quaternion_to_matrix(raw["quaternions"])[:, :, :2]
    offset = (frames * (SPLIT_OFFSET * longer * raw["log_scales"].exp())[:, None]).sum(-1)
    shrunk = raw["log_scales"] - longer * math.log(SPLIT_SHRINK)
    halves = {name: torch.cat([value, value]) for name, value in raw.items()}
    positions = torch.cat([raw["positions"] - offset, raw["positions"] + offset])
    return {**halves, "positions": positions, "log_scales": torch.cat([shrunk, shrunk])}
