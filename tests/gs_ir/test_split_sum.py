"""The split-sum table against the published texels and against quadrature of the surface model."""

import pytest
import torch

from core import brdf
from gs_ir.split_sum import sample_split_sum, split_sum_table
from tests.chi_square import sphere_grid


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [(128, 128, (0.8343, 0.0219)), (255, 255, (0.3093, 0.0)), (255, 0, (0.9415, 0.0465)), (64, 200, (0.9933, 0.0008))],
)
def test_published_texels(row: int, column: int, expected: tuple[float, float]) -> None:
    """Fails when alpha is not roughness squared, G is not height-correlated, or axes are swapped."""
    found = split_sum_table(256)[row, column]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("roughness", "cosine"), [(0.3, 0.7), (0.5, 0.1), (0.8, 0.4), (0.97, 0.95)])
def test_against_quadrature_of_the_brdf(roughness: float, cosine: float) -> None:
    """Fails when the table and the surface model part ways. Measured worst error 6e-4."""
    grid, solid_angle = sphere_grid(600, 400)
    normal = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    view = torch.tensor([(1 - cosine**2) ** 0.5, 0.0, cosine], dtype=torch.float64)
    r = torch.tensor(roughness, dtype=torch.float64)
    black, white = (
        (brdf.eval_specular_cosine(normal, view, grid, torch.full((3,), f0, dtype=torch.float64), r)[:, 0]).sum()
        * solid_angle
        for f0 in (0.0, 1.0)
    )
    scale, bias = sample_split_sum(split_sum_table(256), torch.tensor([cosine]), torch.tensor([roughness]))[0]
    assert float(bias) == pytest.approx(float(black), abs=2e-3)
    assert float(scale + bias) == pytest.approx(float(white), abs=2e-3)


def test_lookup_is_bilinear_and_clamped() -> None:
    """Fails when rows and columns are exchanged or the border extrapolates."""
    table = torch.rand(8, 8, 2, generator=torch.Generator().manual_seed(0))
    found = sample_split_sum(table, torch.tensor([2.5 / 8, 3 / 8, 0.0]), torch.tensor([4.5 / 8, 4.5 / 8, 1.0]))
    expected = torch.stack([table[4, 2], (table[4, 2] + table[4, 3]) / 2, table[7, 0]])
    torch.testing.assert_close(found, expected)
