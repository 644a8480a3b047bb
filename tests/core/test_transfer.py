"""Copies to a device."""

import torch

from core.transfer import upload


def test_upload_keeps_values_and_kinds():
    """Fails when indices become numbers, or numbers keep the host's precision."""
    like = torch.zeros(1, dtype=torch.float64)
    assert torch.equal(upload(torch.arange(3), like), torch.arange(3))
    moved = upload(torch.tensor([0.5, 2.0]), like)
    assert moved.dtype == torch.float64
    assert moved.tolist() == [0.5, 2.0]
