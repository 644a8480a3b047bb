"""LPIPS (Zhang et al. 2018), with the optional package ``lpips`` and a weight file. Nothing is downloaded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.checkpoints import load_weights_only
from core.errors import InputError
from core.files import missing

MAKE_WEIGHTS = "python -c \"import lpips, torch; torch.save(lpips.LPIPS(net='{0}').state_dict(), 'lpips_{0}.pth')\""


class PerceptualDistance(nn.Module):
    """LPIPS of two images; differentiable in both, its own weights frozen."""

    def __init__(
        self, weights: str | Path, network: str = "vgg", rescaled: bool = True, sha256: str | None = None
    ) -> None:
        """Load the network.

        Args:
            weights: state dictionary of ``lpips.LPIPS(net=network)``.
            network: ``vgg`` or ``alex``.
            rescaled: move images from [0, 1] to [-1, 1] first, as LPIPS was trained.
            sha256: what the hash of the weights (:func:`weights_sha256`) must begin with; None: any.

        Raises:
            InputError: the package is absent, or the file is missing, belongs to another network, or has another hash.
        """
        super().__init__()
        self.rescaled = rescaled
        self.network = _build(network)
        if not Path(weights).is_file():
            raise missing(weights, f"{_make(network)} Or leave it out: FLIP is measured without weights.")
        state = load_weights_only(weights)
        try:
            self.network.load_state_dict(state)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise InputError(
                weights,
                found="weights that do not fit",
                expected=f"the state dictionary of lpips.LPIPS(net='{network}')",
                next_step=_make(network),
            ) from error
        self.sha256 = weights_sha256(state)
        if sha256 and not self.sha256.startswith(sha256.lower()):
            raise InputError(
                weights,
                found=f"weights with sha256 {self.sha256}",
                expected=f"{sha256}...",
                next_step=f"{_make(network)} Or correct the hash that you gave.",
            )
        self.network.requires_grad_(False).eval()

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Distance [] of images [H, W, 3] in [0, 1]."""
        images = [image.movedim(-1, 0)[None] for image in (predicted, target)]
        return self.network(*images, normalize=self.rescaled).squeeze()


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes and values, so that the same weights have it in every file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().float().contiguous().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _make(network: str) -> str:
    return f"Make it, on a machine with network access, by {MAKE_WEIGHTS.format(network)}."


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
