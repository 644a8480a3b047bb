"""LPIPS (Zhang et al. 2018), with the optional package ``lpips`` and a weight file. Nothing is downloaded."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.checkpoints import load_weights_only
from core.errors import InputError

MAKE_WEIGHTS = "python -c \"import lpips, torch; torch.save(lpips.LPIPS(net='{0}').state_dict(), 'lpips_{0}.pth')\""


class PerceptualDistance(nn.Module):
    """LPIPS of two images; differentiable in both, its own weights frozen."""

    def __init__(self, weights: str | Path, network: str = "vgg", rescaled: bool = True) -> None:
        """Load the network.

        Args:
            weights: state dictionary of ``lpips.LPIPS(net=network)``.
            network: ``vgg`` or ``alex``.
            rescaled: move images from [0, 1] to [-1, 1] first, as LPIPS was trained.

        Raises:
            InputError: the package is absent, or the file is missing or belongs to another network.
        """
        super().__init__()
        self.rescaled = rescaled
        self.network = _build(network)
        state = load_weights_only(weights)
        try:
            self.network.load_state_dict(state)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise InputError(
                weights,
                found="weights that do not fit",
                expected=f"the state dictionary of lpips.LPIPS(net='{network}')",
                next_step="Make it, on a machine with network access, by " + MAKE_WEIGHTS.format(network),
            ) from error
        self.network.requires_grad_(False).eval()

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Distance [] of images [H, W, 3] in [0, 1]."""
        images = [image.movedim(-1, 0)[None] for image in (predicted, target)]
        return self.network(*images, normalize=self.rescaled).squeeze()


def _build(network: str) -> Any:
    try:
        import lpips
    except ImportError as error:
        raise InputError(
            "LPIPS",
            found="no package named lpips",
            expected="the optional package, because a file with LPIPS weights was given",
            next_step="Install it (pip install lpips), or leave the weight file out to skip this metric.",
        ) from error
    return lpips.LPIPS(net=network, pretrained=False, pnet_rand=True, verbose=False)
