"""The surface model: samplers against their densities, energy, symmetry, the lobes against quadrature."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core import brdf
from tests.chi_square import p_value, sphere_grid

NORMAL = normalize(torch.tensor([0.3, -0.5, 0.7], dtype=torch.float64), dim=0)
SIGNIFICANCE = 1e-3
SAMPLES = 40_000


def _view(cosine: float) -> Tensor:
    side = normalize(torch.linalg.cross(NORMAL, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)), dim=0)
    return cosine * NORMAL + (1 - cosine**2) ** 0.5 * side


def _material(roughness: float, metallic: float) -> tuple[Tensor, Tensor, Tensor]:
    albedo = torch.tensor([0.8, 0.4, 0.1], dtype=torch.float64)
    return albedo, torch.tensor(roughness, dtype=torch.float64), torch.tensor(metallic, dtype=torch.float64)


def _uniforms(seed: int = 0) -> Tensor:
    return torch.rand(SAMPLES, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _samplers(cosine: float, roughness: float, metallic: float) -> dict[str, tuple[Callable, Callable]]:
    """Every sampler with its density: a new one belongs in this list."""
    n, v = NORMAL.expand(SAMPLES, 3), _view(cosine).expand(SAMPLES, 3)
    albedo, r, m = _material(roughness, metallic)
    many = albedo.expand(SAMPLES, 3), r.expand(SAMPLES), m.expand(SAMPLES)
    return {
        "cosine": (lambda u: brdf.sample_cosine(n, u[:, :2]), lambda d: brdf.pdf_cosine(NORMAL, d)),
        "ggx": (lambda u: brdf.sample_ggx(n, v, many[1], u[:, :2]), lambda d: brdf.pdf_ggx(NORMAL, v[0], d, r)),
        "mixture": (lambda u: brdf.sample(n, v, *many, u), lambda d: brdf.pdf(NORMAL, v[0], d, albedo, r, m)),
    }


CASES = [(0.95, 0.6, 0.0), (0.2, 0.5, 0.3), (0.05, 0.9, 1.0), (0.7, 0.35, 0.0)]


@pytest.mark.parametrize("name", ["cosine", "ggx", "mixture"])
@pytest.mark.parametrize("case", CASES)
def test_samples_follow_their_pdf(name: str, case: tuple[float, float, float]) -> None:
    """Fails when a density misses a Jacobian, uses another masking term, or the lobe choice ignores its probability."""
    sample, pdf = _samplers(*case)[name]
    assert p_value(sample(_uniforms()), pdf) > SIGNIFICANCE


@pytest.mark.parametrize("name", ["cosine", "ggx", "mixture"])
@pytest.mark.parametrize("case", CASES)
def test_pdf_integrates_to_one(name: str, case: tuple[float, float, float]) -> None:
    """Fails when probability is lost, for example below the surface. Midpoint rule; measured worst error 4e-4."""
    grid, solid_angle = sphere_grid(450, 450)
    assert _samplers(*case)[name][1](grid).sum() * solid_angle == pytest.approx(1, abs=2e-3)


def test_view_below_the_surface_still_has_a_sampler() -> None:
    """Fails when the lobe probabilities divide zero by zero behind the surface or for black metal."""
    albedo, roughness, metallic = torch.zeros(3), torch.tensor(0.5), torch.tensor(1.0)
    n, v = torch.tensor([0.0, 0.0, 1.0]), normalize(torch.tensor([0.0, 0.6, -0.8]), dim=0)
    light = brdf.sample(n, v, albedo, roughness, metallic, torch.tensor([0.4, 0.2, 0.3]))
    assert brdf.pdf(n, v, light, albedo, roughness, metallic) == pytest.approx(float(light[2]) / torch.pi, rel=1e-4)
    assert not brdf.eval_cosine(n, v, light, albedo, roughness, metallic).any()


def _random_directions(count: int, seed: int) -> Tensor:
    raw = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    d = normalize(raw, dim=-1)
    return torch.where((d @ NORMAL)[:, None] < 0, -d, d)


def test_reciprocity() -> None:
    """Fails when a term depends on the view but not on the light: f(v, l) = f(l, v)."""
    a, b = _random_directions(500, 1), _random_directions(500, 2)
    material = _material(0.4, 0.3)
    forth = brdf.eval_cosine(NORMAL, a, b, *material) / (b @ NORMAL)[:, None]
    back = brdf.eval_cosine(NORMAL, b, a, *material) / (a @ NORMAL)[:, None]
    torch.testing.assert_close(forth, back)


def _reflectance(f0: float, roughness: float, cosine: float) -> float:
    grid, solid_angle = sphere_grid(600, 300)
    r = torch.tensor(roughness, dtype=torch.float64)
    fresnel = torch.full((3,), f0, dtype=torch.float64)
    values = brdf.eval_specular_cosine(NORMAL, _view(cosine), grid, fresnel, r)[:, 0]
    return float(values.sum() * solid_angle)


@pytest.mark.parametrize("roughness", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("cosine", [0.1, 0.5, 1.0])
def test_white_furnace(roughness: float, cosine: float) -> None:
    """Fails when the lobe creates energy: a white mirror of any roughness reflects at most what it receives.

    (Single scattering loses up to 69 % at roughness 1.)
    """
    assert 0.3 < _reflectance(1.0, roughness, cosine) <= 1.0005


@pytest.mark.parametrize("case", CASES)
def test_importance_sampling_agrees_with_quadrature(case: tuple[float, float, float]) -> None:
    """Fails when eval and pdf use different lobes: the mean of f cos / pdf is the hemispherical reflectance."""
    cosine, roughness, metallic = case
    albedo, r, m = _material(roughness, metallic)
    n, v = NORMAL.expand(SAMPLES, 3), _view(cosine).expand(SAMPLES, 3)
    many = albedo.expand(SAMPLES, 3), r.expand(SAMPLES), m.expand(SAMPLES)
    light = brdf.sample(n, v, *many, _uniforms(3))
    ratio = brdf.eval_cosine(n, v, light, *many) / brdf.pdf(n, v, light, *many)[:, None]
    grid, solid_angle = sphere_grid(300, 300)
    exact = brdf.eval_cosine(NORMAL, v[0], grid, albedo, r, m).sum(0) * solid_angle
    error = 4 * ratio.std(0) / SAMPLES**0.5 + 2e-3
    assert ((ratio.mean(0) - exact).abs() < error).all()


def test_diffuse_reflectance_is_albedo() -> None:
    """Fails when pi is lost: a rough dielectric without its coating reflects exactly its albedo."""
    grid, solid_angle = sphere_grid(400, 400)
    total = brdf.eval_diffuse_cosine(NORMAL, _view(0.5), grid).sum() * solid_angle
    assert total == pytest.approx(1, abs=1e-4)


def test_peak_survives_single_precision() -> None:
    """Fails when 1 - cos**2 is formed by subtraction: the peak of D at roughness 0.1 in float32 against float64."""
    normal = normalize(torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64), dim=0)
    tilt = normalize(normal + torch.tensor([3e-3, 0.0, 0.0], dtype=torch.float64), dim=0)
    alpha = torch.tensor(0.01, dtype=torch.float64)
    exact = brdf.ggx_distribution(normal, tilt, alpha)
    rounded = brdf.ggx_distribution(normal.float(), tilt.float(), alpha.float())
    assert float(rounded) == pytest.approx(float(exact), rel=1e-3)


def test_gradients_are_finite_everywhere() -> None:
    """Fails when a mirror direction, a grazing one or a smooth surface sends NaN into training."""
    n = torch.tensor([0.0, 0.0, 1.0]).expand(4, 3).clone().requires_grad_()
    v = normalize(torch.tensor([[0.0, 0, 1], [1, 0, 1e-4], [1, 0, -0.1], [0.6, 0, 0.8]]), dim=-1)
    light = normalize(torch.tensor([[0.0, 0, 1], [-1, 0, 1e-4], [0, 0, 1], [-0.6, 0, -0.8]]), dim=-1)
    albedo, metallic = torch.full((4, 3), 0.5, requires_grad=True), torch.full((4,), 0.5, requires_grad=True)
    roughness = torch.tensor([0.0, 0.02, 0.5, 1.0], requires_grad=True)
    brdf.eval_cosine(n, v, light, albedo, roughness, metallic).sum().backward()
    assert all(x.grad.isfinite().all() for x in (n, albedo, roughness, metallic))
