"""Lights: sampling against density, closed-form means, panorama orientation."""

import math

import pytest
import torch

from core.images import write_hdr
from implicit_branch.building import build_light
from implicit_branch.rendering.emitters import (
    LearnedLight,
    NetworkLight,
    SphericalGaussianLight,
    TextureLight,
    fibonacci_sphere,
)  # fmt: skip
from tests.chi_square import p_value

SAMPLES = 40_000


def _lights() -> dict[str, LearnedLight]:
    torch.manual_seed(0)
    gaussians = SphericalGaussianLight(num_SGs=6)
    with torch.no_grad():
        gaussians.sharpness.copy_(torch.tensor([2.0, 5.0, 10.0, 20.0, 40.0, 80.0]))
    return {
        "gaussians": gaussians,
        "texture": TextureLight(base_res=16),
        "blender": TextureLight(base_res=16, xyz2lonlat_mode="blender"),
        "network": NetworkLight(base_res=8, n_levels=2, log2_hashmap_size=8),
    }


@pytest.mark.parametrize("name", ["gaussians", "texture", "blender", "network"])
def test_samples_follow_their_density(name: str):
    """Fails when a lobe's inversion, choice or normalisation is wrong, or a map is sampled in another orientation."""
    light = _lights()[name]
    uniforms = torch.rand(SAMPLES, 3, generator=torch.Generator().manual_seed(4))
    directions, density = light.sample(uniforms)
    torch.testing.assert_close(density, light.pdf(directions), rtol=2e-2, atol=1e-3)
    assert p_value(directions, lambda d: light.pdf(d.float()).double()) > 1e-3


@pytest.mark.parametrize("name", ["gaussians", "texture", "network"])
def test_importance_sampling_finds_the_mean(name: str):
    """Fails when radiance and density belong to different directions: E[L / p] / 4 pi is the mean radiance."""
    light = _lights()[name]
    directions, density = light.sample(torch.rand(SAMPLES, 3, generator=torch.Generator().manual_seed(5)))
    estimate = (light.radiance(directions) / density[:, None]).mean(0) / (4 * math.pi)
    torch.testing.assert_close(estimate, light.mean(), rtol=0.03, atol=0.01)


def test_gaussians_start_grey_with_the_asked_mean():
    """Fails when the start is not the published one: grey, mean radiance 0.4 (closed form against quadrature)."""
    light = SphericalGaussianLight(num_SGs=64)
    quadrature = light.radiance(fibonacci_sphere(20_000)).mean(0)
    torch.testing.assert_close(light.mean(), torch.full((3,), 0.4))
    torch.testing.assert_close(quadrature, torch.full((3,), 0.4), rtol=0.01, atol=0)


def test_panorama_orientation(tmp_path):
    """Fails when up is down, or Blender's z-up panorama is not turned: up must be the top row in both."""
    image = torch.full((16, 32, 3), 0.1)
    image[:4] = torch.tensor([0.0, 0.0, 1.0])
    image[7:9, 15:17] = torch.tensor([1.0, 0.0, 0.0])
    write_hdr(tmp_path / "light.hdr", image)
    directions = {
        None: torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]),
        "blender": torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    }
    for mode, (up, centre) in directions.items():
        light = TextureLight(hdr_filepath=tmp_path / "light.hdr", xyz2lonlat_mode=mode)
        found = light.radiance(torch.stack([up, centre]))
        assert found[0, 2] > 0.9
        assert found[1, 0] > 0.9


def test_every_configured_light_is_built():
    """Fails when a name of the configuration has no class."""
    for keys in (
        {"name": "envlight-SG", "num_SGs": 4},
        {"name": "envlight-tensor", "base_res": 8},
        {"name": "envlight-MLP", "base_res": 8, "n_levels": 2, "log2_hashmap_size": 8},
    ):
        assert build_light(keys).radiance(fibonacci_sphere(5)).shape == (5, 3)
