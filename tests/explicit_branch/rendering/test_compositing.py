"""The picture's own derivative against autograd."""

import torch

from core.color import composite, linear_to_srgb
from explicit_branch.rendering.compositing import srgb_picture


def test_picture_and_its_gradients():
    """Fails when a slope, the clamp or the background's share is wrong; all pieces of the curve occur."""
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(6, 8, dtype=torch.float64, generator=generator)
    radiance = 1.5 * torch.rand(6, 8, 3, dtype=torch.float64, generator=generator) - 0.2
    alpha[:2], radiance[0] = 1.0, radiance[0] * 0.003
    cotangent = torch.randn(6, 8, 3, dtype=torch.float64, generator=generator)

    def gradients(function) -> tuple:
        leaves = radiance.clone().requires_grad_(), alpha.clone().requires_grad_()
        image = function(*leaves)
        return image.detach(), *torch.autograd.grad(image, leaves, cotangent)

    for background in (0.0, 1.0):
        found = gradients(lambda r, a, b=background: srgb_picture(r, a, b))
        expected = gradients(lambda r, a, b=background: linear_to_srgb(composite(r, a, b).clamp(0, 1)))
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
