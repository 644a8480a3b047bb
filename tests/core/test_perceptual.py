"""LPIPS is optional: what is said when its package or weights are absent or wrong."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.checkpoints import save_atomically
from core.errors import InputError
from core.perceptual import PerceptualDistance


class FakeLpips(nn.Module):
    """Stands in for the package's network: records how it was called."""

    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, a, b, normalize):
        self.called = a.shape, normalize
        return (self.scale * (a - b) ** 2).mean().reshape(1, 1, 1, 1)


@pytest.fixture
def fake_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=FakeLpips))


def test_absent_package_is_named(monkeypatch, tmp_path):
    """Catches a bare ImportError after the render."""
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match="pip install lpips"):
        PerceptualDistance(tmp_path / "weights.pth")


def test_missing_and_foreign_weights(fake_package, tmp_path):
    """Catches a random network used in silence: weights must be there and must fit."""
    with pytest.raises(InputError, match=r"weights.pth: found nothing.*torch.save\(lpips.*FLIP is measured without"):
        PerceptualDistance(tmp_path / "weights.pth")
    save_atomically({"other": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="weights that do not fit"):
        PerceptualDistance(tmp_path / "other.pth")


def test_network_gets_batches_and_the_convention(fake_package, tmp_path):
    """Catches channels last, downloads, and the wrong input range."""
    save_atomically({"scale": torch.full((1,), 2.0)}, tmp_path / "weights.pth")
    distance = PerceptualDistance(tmp_path / "weights.pth", "alex", rescaled=False)
    value = distance(torch.full((8, 9, 3), 0.5), torch.zeros(8, 9, 3))
    assert value.item() == pytest.approx(0.5)
    assert distance.network.called == ((1, 3, 8, 9), False)
    assert distance.network.options == {"net": "alex", "pretrained": False, "pnet_rand": True, "verbose": False}


def test_weights_are_checked_by_their_hash(fake_package, tmp_path):
    """Catches weights of another training used under the right name, and a hash that depends on how they are stored."""
    weights = {"scale": torch.full((1,), 2.0)}
    save_atomically(weights, tmp_path / "a.pth")
    save_atomically(nn.ParameterDict(weights).state_dict(), tmp_path / "b.pth")
    known = PerceptualDistance(tmp_path / "a.pth").sha256
    assert PerceptualDistance(tmp_path / "b.pth", sha256=known[:12].upper()).sha256 == known
    save_atomically({"scale": torch.full((1,), 2.1)}, tmp_path / "c.pth")
    with pytest.raises(InputError, match=f"c.pth: found weights with sha256 .*expected {known}"):
        PerceptualDistance(tmp_path / "c.pth", sha256=known)
