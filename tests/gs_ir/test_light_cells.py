"""A light as distant lamps: energy, directions, turns."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from gs_ir.cubemap import PrefilteredLight, texel_directions, texel_solid_angles
from gs_ir.directional import baked_directions
from gs_ir.light_cells import light_cells
from gs_ir.prefiltering import prefilter


def _night_with_a_sun(resolution: int, towards: torch.Tensor, width: float = 0.06) -> torch.Tensor:
    near = (texel_directions(resolution) @ normalize(towards, dim=0)) > math.cos(width)
    return 0.1 + 500 * near[..., None] * torch.tensor([1.0, 0.9, 0.8])


@pytest.mark.parametrize("resolution", [16, 32, 128])
def test_energy_is_kept(resolution: int) -> None:
    """Fails when a texel is lost or counted twice: the cells add up to the integral over the sphere."""
    texels = torch.rand(6, resolution, resolution, 3, generator=torch.Generator().manual_seed(0)) ** 8
    expected = (texels * texel_solid_angles(resolution)[..., None]).sum((0, 1, 2))
    torch.testing.assert_close(light_cells(texels).energy.sum(0), expected, rtol=1e-4, atol=0)


def test_constant_light_is_even() -> None:
    """Fails when cells overlap or directions leave their cells: equal shares of 4 pi, mean directions in the middle."""
    cells = light_cells(torch.ones(6, 64, 64, 3))
    torch.testing.assert_close(cells.energy, torch.full((127, 3), 4 * math.pi / 127), rtol=0.15, atol=0)
    assert float((cells.directions * baked_directions(cells.directions)).sum(-1).min()) > math.cos(0.06)


def test_sun_stands_where_it_is() -> None:
    """Fails when a lamp is moved to the middle of its cell: a sun is at most a texel off, and holds its energy."""
    for seed in range(5):
        towards = torch.randn(3, generator=torch.Generator().manual_seed(seed))
        cells = light_cells(_night_with_a_sun(128, towards, 0.02))
        # A sun across a border is shared by cells.
        bright = cells.energy[:, 0] > 0.3
        mean = normalize((cells.energy[bright, :1] * cells.directions[bright]).sum(0), dim=0)
        assert float(mean @ normalize(towards, dim=0)) > math.cos(0.05)


def test_black_light_has_directions() -> None:
    """Fails when a cell without light has a direction of length zero or none at all."""
    cells = light_cells(torch.zeros(6, 32, 32, 3))
    torch.testing.assert_close(cells.directions.norm(dim=-1), torch.ones(127))
    assert not cells.energy.any()


def test_turned_light() -> None:
    """Fails when the lamps turn the other way, or are gathered anew: +z moves to +x."""
    light = prefilter(_night_with_a_sun(32, torch.tensor([0.0, 0.0, 1.0])))
    turned = light.rotated(math.pi / 2)
    sun = int(light.cells().energy[:, 0].argmax())
    torch.testing.assert_close(turned.cells().directions[sun, 0], light.cells().directions[sun, 2])
    assert turned.cells().energy is light.cells().energy
    moved = light.to("cpu").cells()
    torch.testing.assert_close(moved.energy, light.cells().energy)


def test_light_without_source() -> None:
    """Fails when a light that was not prefiltered here gives no reason."""
    light = prefilter(torch.ones(6, 16, 16, 3))
    with pytest.raises(ValueError, match="unfiltered"):
        PrefilteredLight(light.mips, light.roughness, light.irradiance_sh).cells()
