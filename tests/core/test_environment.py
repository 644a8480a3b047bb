"""The environment map: orientation, sampling against density, rotation."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.environment import EnvironmentMap, direction_to_uv, rotate_about_y, texel_directions, uv_to_direction
from core.errors import InputError
from gs_ir.equirect import row_solid_angles, sample_equirect, shrink, texel_uv
from tests.chi_square import p_value, pooled_p_value, sphere_grid

SAMPLES = 40_000


def _spiky_image(height: int = 8, width: int = 16) -> Tensor:
    """Noise over three decades, with a sun in one texel and a black region."""
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8
    image[2, 5] = 40
    image[5:, :6] = 0
    return image


def _uniforms(seed: int) -> Tensor:
    return torch.rand(SAMPLES, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_uv_round_trip() -> None:
    """Fails when the two mappings disagree about a sign."""
    d = normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1)
    torch.testing.assert_close(uv_to_direction(direction_to_uv(d)), d)


@pytest.mark.parametrize(
    ("direction", "uv"),
    [((0, 0, 1), (0.5, 0.5)), ((1, 0, 0), (0.75, 0.5)), ((0, -1, 0), (0.5, 0.0)), ((-1, 0, 0), (0.25, 0.5))],
)
def test_orientation(direction: tuple[float, ...], uv: tuple[float, float]) -> None:
    """Fails when the image is mirrored or upside down: centre +z, right +x, top -y."""
    found = direction_to_uv(torch.tensor(direction, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(uv, dtype=torch.float64))


def test_texel_solid_angles() -> None:
    """Fails when sin(theta) at the texel centre stands for the exact integral: they sum to 4 pi at any size."""
    for height, width in ((1, 2), (3, 7), (64, 128)):
        total = row_solid_angles(height, width, torch.zeros((), dtype=torch.float64)).sum() * width
        assert float(total) == pytest.approx(4 * torch.pi, rel=1e-12)


def test_eval_reads_texel_centres_and_wraps() -> None:
    """Fails on a half-texel shift, at the seam, or at the poles."""
    image = _spiky_image()
    torch.testing.assert_close(EnvironmentMap(image).eval(texel_directions(8, 16, image)), image)
    seam = EnvironmentMap(image).eval(uv_to_direction(torch.tensor([0.0, 2.5 / 8], dtype=torch.float64)))
    torch.testing.assert_close(seam, (image[2, 0] + image[2, 15]) / 2)
    around_pole = uv_to_direction(torch.tensor([[0.2, 1e-9], [0.7, 1e-9]], dtype=torch.float64))
    values = sample_equirect(image, direction_to_uv(around_pole))
    torch.testing.assert_close(values[0], values[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1.1])
def test_samples_follow_the_pdf(angle: float) -> None:
    """Fails when the density misses the texel's solid angle, or the rotation moves samples but not the density."""
    light = EnvironmentMap(_spiky_image()).rotated(angle)
    directions, density = light.sample(_uniforms(2))
    assert p_value(directions, light.pdf, 16, 32) > 1e-3
    torch.testing.assert_close(density, light.pdf(directions))


def test_samples_follow_the_pdf_texel_by_texel() -> None:
    """Fails when one row or column of the cumulative table is off by one: counts per texel against pdf times area."""
    light = EnvironmentMap(_spiky_image())
    directions, _ = light.sample(_uniforms(3))
    cell = (direction_to_uv(directions) * torch.tensor([16, 8])).long()
    observed = torch.bincount(cell[:, 1] * 16 + cell[:, 0], minlength=128).double()
    area = row_solid_angles(8, 16, directions)[:, None]
    expected = light.pdf(texel_directions(8, 16, directions)) * area * SAMPLES
    assert pooled_p_value(observed.numpy(), expected.reshape(-1).numpy()) > 1e-3


def test_samples_are_uniform_inside_a_texel() -> None:
    """Fails when the place inside the step of the table is not linear in solid angle."""
    image = torch.zeros(8, 16, 3, dtype=torch.float64)
    directions, _ = EnvironmentMap(image + 1).sample(_uniforms(4))
    assert p_value(directions, lambda d: torch.full_like(d[:, 0], 1 / (4 * torch.pi)), 40, 40) > 1e-3


def test_pdf_integrates_to_one() -> None:
    """Fails when weights are normalised before the floor is added."""
    grid, solid_angle = sphere_grid(500, 1000)
    assert EnvironmentMap(_spiky_image()).pdf(grid).sum() * solid_angle == pytest.approx(1, abs=2e-3)


def test_sampling_is_unbiased_and_quiet() -> None:
    """Fails when texels that interpolation lights are never sampled; the estimate of the total energy.

    The density is proportional to the energy inside a texel, so what is left of the noise comes from inside texels.
    """
    light = EnvironmentMap(_spiky_image())
    directions, density = light.sample(_uniforms(5))
    estimate = light.eval(directions) / density[:, None]
    grid, solid_angle = sphere_grid(500, 1000)
    exact = light.eval(grid).sum(0) * solid_angle
    assert ((estimate.mean(0) - exact).abs() < 4 * estimate.std(0) / SAMPLES**0.5 + 1e-3 * exact).all()


def test_black_map_is_sampled_everywhere() -> None:
    """Fails when an unlit map divides zero by zero."""
    directions, density = EnvironmentMap(torch.zeros(4, 8, 3)).sample(_uniforms(6)[:100].float())
    torch.testing.assert_close(density, torch.full((100,), 1 / (4 * torch.pi)))
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(100))


def test_rotation_moves_the_centre_towards_x() -> None:
    """Fails when the light turns the wrong way: a quarter turn brings the centre column from +z to +x."""
    image = torch.zeros(8, 16, 3)
    image[:, 7:9] = 1
    turned = EnvironmentMap(image).rotated(torch.pi / 2)
    values = turned.eval(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    assert values[0, 0] == pytest.approx(1, abs=1e-5)
    assert values[1, 0] == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(
        rotate_about_y(torch.tensor([0.0, 0, 1]), torch.pi / 2), torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0
    )


def test_eval_is_differentiable_in_the_image() -> None:
    """Fails when a trainable map gets no gradient."""
    image = _spiky_image(3, 6).requires_grad_()
    d = normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1)
    assert torch.autograd.gradcheck(lambda x: EnvironmentMap(x).eval(d), image)


def test_shrinking_keeps_the_energy() -> None:
    """Fails when texels near the poles count as much as those at the equator."""
    image = _spiky_image()
    small = shrink(image, 2)
    energy = [(row_solid_angles(x.shape[0], x.shape[1], x)[:, None, None] * x).sum() for x in (image, small)]
    torch.testing.assert_close(energy[0], energy[1])
    assert texel_uv(4, 8, image).shape == (4, 8, 2)


def test_wrong_shape() -> None:
    """Fails when a grey or channel-first image passes."""
    with pytest.raises(InputError, match="height, width, 3"):
        EnvironmentMap(torch.zeros(3, 8, 16))
