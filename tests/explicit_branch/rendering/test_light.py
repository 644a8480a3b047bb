"""The relighting light: orientation, rotation, background."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.errors import InputError
from explicit_branch.rendering.light import ImageLight

AXES = {
    "+x": (1.0, 0, 0),
    "-x": (-1.0, 0, 0),
    "down": (0, 1.0, 0),
    "up": (0, -1.0, 0),
    "+z": (0, 0, 1.0),
    "-z": (0, 0, -1.0),
}


def _image(rows: slice, columns: slice) -> Tensor:
    image = torch.full((32, 64, 3), 0.01)
    image[rows, columns] = 20
    return image


def _brightest(light: ImageLight) -> str:
    normals = torch.tensor(list(AXES.values()))
    return list(AXES)[int(light.prefiltered.irradiance(normals).sum(1).argmax())]


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (slice(15, 17), slice(31, 33), "+z"),
        (slice(0, 1), slice(0, 64), "up"),
        (slice(15, 17), slice(47, 49), "+x"),
        (slice(15, 17), slice(0, 1), "-z"),
    ],
)
def test_which_surfaces_an_image_lights(rows: slice, columns: slice, expected: str) -> None:
    """Fails when the image is mirrored or upside down: centre lights +z, top row lights world -y."""
    assert _brightest(ImageLight.from_image(_image(rows, columns), resolution=16)) == expected


def test_rotation_turns_shading_and_background_together() -> None:
    """Fails when one of the two turns the other way: a quarter turn brings the lamp from +z to +x."""
    light = ImageLight.from_image(_image(slice(14, 18), slice(30, 34)), resolution=16).rotated(torch.pi / 2)
    assert _brightest(light) == "+x"
    background = light.radiance(torch.tensor([AXES["+x"], AXES["+z"]]))
    assert float(background[0, 0]) > 10
    assert float(background[1, 0]) < 1


def test_rotated_light_equals_rolled_image() -> None:
    """Fails when the angle is not what the image shows: a roll by 16 of 64 columns is a quarter turn."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(32, 64, 3, generator=generator)
    turned = ImageLight.from_image(image, resolution=16).rotated(torch.pi / 2)
    rolled = ImageLight.from_image(image.roll(16, 1), resolution=16)
    d = normalize(torch.randn(60, 3, generator=generator), dim=-1)
    roughness = torch.full((60,), 0.6)
    torch.testing.assert_close(turned.radiance(d), rolled.radiance(d), atol=1e-4, rtol=0)
    for name, arguments in (("irradiance", (d,)), ("radiance", (d, roughness))):
        a, b = (getattr(x.prefiltered, name)(*arguments) for x in (turned, rolled))
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_published_levels_are_available() -> None:
    """Fails when the switch to the reference system's roughness levels is lost."""
    light = ImageLight.from_image(torch.ones(16, 32, 3), resolution=64, published=True)
    assert light.prefiltered.roughness == pytest.approx([0.08, 0.5, 1.0])
    assert [m.shape[1] for m in light.prefiltered.mips] == [64, 32, 16]


def test_wrong_image() -> None:
    """Fails when an image with alpha is taken for radiance."""
    with pytest.raises(InputError, match="height, width, 3"):
        ImageLight.from_image(torch.ones(16, 32, 4), resolution=16)
