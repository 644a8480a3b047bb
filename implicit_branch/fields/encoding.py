"""Multiresolution hash encoding of canonical points, opened level by level (Mueller et al. 2022)."""

import importlib
import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from core.errors import InputError
from gs_ir.hash_grid import HashGridLayout, compact_copy, encode, encode_with_jacobian
from implicit_branch.fields.once import Once

PullBack = Callable[[Tensor], Tensor]


class HashEncoding(nn.Module):
    """Raw coordinates in [-1, 1] followed by hash-grid features; levels open coarse to fine.

    Levels that are not open yet are not evaluated: their features are zero and cost nothing.
    """

    box: Tensor

    def __init__(
        self,
        *,
        n_levels: int = 16,
        n_features_per_level: int = 2,
        log2_hashmap_size: int = 19,
        base_resolution: int = 16,
        per_level_scale: float = 1.447269237440378,
        start_level: int = 4,
        start_step: int = 500,
        update_steps: int = 125,
        backend: str = "gs_ir",
        half_precision: bool = False,
    ) -> None:
        """Set up.

        ``start_step`` and ``update_steps`` count steps of the 25 000-step reference schedule. With ``half_precision``,
        our own kernels read tables rounded to half precision on a GPU; what is trained stays in single precision.

        Raises:
            InputError: ``backend`` is unknown, or tinycudann is asked for and absent.
        """
        super().__init__()
        if backend not in GRIDS:
            raise InputError("xyz_encoding_config.backend", found=repr(backend), expected=" or ".join(GRIDS),
                             next_step="Leave the key out for our own kernel.")  # fmt: skip
        layout = HashGridLayout(n_levels, n_features_per_level, log2_hashmap_size, base_resolution, per_level_scale)
        self.layout = layout
        self.start_level, self.start_step, self.update_steps = start_level, start_step, update_steps
        self.grid: NativeGrid | TinyCudaGrid = GRIDS[backend](layout)
        self.grid.half_precision = half_precision
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))
        self.active_levels = min(start_level, n_levels)
        self._maps: tuple[Hashable, tuple[Tensor, ...]] = (None, ())

    @property
    def features(self) -> int:
        """Width of the output: three coordinates and every level's features."""
        return 3 + self.layout.width

    def open_levels(self, reference_step: float) -> None:
        """Open the levels due at ``reference_step`` (position in the 25 000-step schedule)."""
        opened = self.start_level
        if reference_step >= self.start_step:
            opened += 1 + int((reference_step - self.start_step) // self.update_steps)
        self.active_levels = max(1, min(opened, self.layout.levels))

    def finest_cell(self) -> float:
        """Edge of a cell of the finest open level, as a fraction of the box."""
        return 1 / (self.layout.base_resolution * math.pow(self.layout.growth, self.active_levels - 1))

    def _box_maps(self) -> tuple[Tensor, ...]:
        """Scale and shift [3] of points to the unit cube, and to [-1, 1]; computed when the box has changed."""
        key = self.box.device, self.box.data_ptr(), self.box._version
        if self._maps[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                low, high = self.box.clone()
                scale = 1 / (high - low)
                self._maps = key, (scale, -low * scale, 2 * scale, -2 * low * scale - 1)
        return self._maps[1]

    def unit(self, points: Tensor) -> Tensor:
        """Canonical ``points`` [N, 3] (metres) in the unit cube."""
        scale, shift, *_ = self._box_maps()
        return torch.addcmul(shift, points, scale)

    def signed_unit(self, points: Tensor) -> Tensor:
        """Canonical ``points`` [N, 3] (metres) in [-1, 1]."""
        *_, scale2, shift2 = self._box_maps()
        return torch.addcmul(shift2, points, scale2)

    @property
    def unit_scale(self) -> Tensor:
        """[3] derivative of :meth:`unit` by the points."""
        return self._box_maps()[0]

    def forward(self, points: Tensor) -> Tensor:
        """Encode canonical ``points`` [N, 3] (metres) to [N, features]."""
        return torch.cat([self.signed_unit(points), self.grid(self.unit(points), self.active_levels)], -1)

    def with_pull_back(self, points: Tensor) -> tuple[Tensor, PullBack]:
        """Encode ``points`` [N, 3] and return how gradients with respect to the encoding reach the points.

        Returns:
            the encoding [N, features], and a function from the gradient [N, features] of a value with respect to it
            to the gradient [N, 3] of that value with respect to the points, per metre; differentiable in the table.
        """
        encoded, pull_back_grid = self.grid.with_pull_back(self.unit(points), self.active_levels)

        def pull_back(gradient: Tensor) -> Tensor:
            return torch.add(pull_back_grid(gradient[:, 3:]), gradient[:, :3], alpha=2) * self.unit_scale

        return torch.cat([self.signed_unit(points), encoded], -1), pull_back


class NativeGrid(nn.Module):
    """The table of our own kernel, which also returns the Jacobian."""

    def __init__(self, layout: HashGridLayout) -> None:
        super().__init__()
        self.layout = layout
        self.half_precision = False
        self._kept: Once[Tensor] | None = None
        self.table = nn.Parameter(torch.empty(layout.entries, layout.features).uniform_(-1e-4, 1e-4))

    def forward(self, unit: Tensor, active_levels: int) -> Tensor:
        """Features [N, L*F] at ``unit`` [N, 3] in the unit cube."""
        return encode(unit, self.table, self.layout, active_levels, compact=self.compact())

    def with_pull_back(self, unit: Tensor, active_levels: int) -> tuple[Tensor, PullBack]:
        """Features and the product with the transposed Jacobian."""
        encoded, jacobian = self.with_jacobian(unit, active_levels)
        return encoded, lambda gradient: torch.bmm(gradient[:, None], jacobian)[:, 0]

    def with_jacobian(self, unit: Tensor, active_levels: int) -> tuple[Tensor, Tensor]:
        """Features [N, L*F] and their derivatives [N, L*F, 3] by ``unit``."""
        return encode_with_jacobian(unit, self.table, self.layout, active_levels, compact=self.compact())

    def compact(self) -> Tensor | None:
        """The table rounded to half precision, where that is what is read."""
        if not self.half_precision or not self.table.is_cuda or self.table.dtype != torch.float32:
            return None
        return self._rounded() if self._kept is None else self._kept.get()

    def _rounded(self) -> Tensor:
        return compact_copy(self.table, self.layout)

    @contextmanager
    def table_once(self) -> Iterator[None]:
        """Inside, the table is rounded once, when first read; it must not change."""
        self._kept = Once(self._rounded)
        try:
            yield
        finally:
            self._kept = None


class TinyCudaGrid(nn.Module):
    """tiny-cuda-nn's hash grid, whose Jacobian product comes from (twice differentiable) autograd."""

    half_precision: bool
    """Without effect: the package is asked for single precision."""

    def __init__(self, layout: HashGridLayout) -> None:
        """Raises: InputError: tinycudann is not installed."""
        super().__init__()
        try:
            library = importlib.import_module("tinycudann")
        except ImportError as error:
            raise InputError(
                "xyz_encoding_config.backend",
                found="tinycudann, which is not installed",
                expected="an installed tinycudann",
                next_step="Run: pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch",
            ) from error
        self.width = layout.features
        self.encoding = library.Encoding(
            3,
            {
                "otype": "HashGrid",
                "n_levels": layout.levels,
                "n_features_per_level": layout.features,
                "log2_hashmap_size": layout.log2_size,
                "base_resolution": layout.base_resolution,
                "per_level_scale": layout.growth,
                "interpolation": "Linear",
            },
            dtype=torch.float32,
        )

    def forward(self, unit: Tensor, active_levels: int) -> Tensor:
        """Features [N, L*F] at ``unit`` [N, 3]; levels that are not open are masked, not skipped."""
        encoded = self.encoding(unit)
        open_columns = torch.arange(encoded.shape[1], device=encoded.device) < active_levels * self.width
        return encoded * open_columns

    def with_pull_back(self, unit: Tensor, active_levels: int) -> tuple[Tensor, PullBack]:
        """Features and the product with the transposed Jacobian."""
        with torch.enable_grad():
            unit = unit.detach().requires_grad_()
            encoded = self(unit, active_levels)

        def pull_back(gradient: Tensor) -> Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(encoded, unit, gradient, create_graph=True)[0]

        return encoded, pull_back

    def table_once(self) -> AbstractContextManager[None]:
        """Nothing to keep."""
        return nullcontext()


GRIDS: dict[str, type[NativeGrid] | type[TinyCudaGrid]] = {"gs_ir": NativeGrid, "tinycudann": TinyCudaGrid}
