"""Keys that tell whether something derived from tensors is still good."""

from dataclasses import dataclass

import torch
from torch import Tensor

from explicit_branch.rendering.changes import same, versions


@dataclass(frozen=True)
class Holder:
    values: Tensor


def test_replaced_and_edited_objects_are_noticed():
    """Fails when an edit in place or a replaced object goes unnoticed, or objects that hold tensors are compared."""
    values, holder = torch.zeros(3), Holder(torch.zeros(2))
    key = (1.0, holder, *versions(values, None))
    assert same((1.0, holder, *versions(values, None)), key)
    assert not same(key, None)
    assert not same((2.0, holder, *versions(values, None)), key)
    assert not same((1.0, Holder(torch.zeros(2)), *versions(values, None)), key)
    assert not same((1.0, holder, *versions(values.clone(), None)), key)
    values += 1
    assert not same((1.0, holder, *versions(values, None)), key)
