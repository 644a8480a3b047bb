"""CUDA kernels of posing surfels."""

from functools import partial

import pytest
import torch

from tests.gs_ir.cuda.agreement import assert_agree
from tests.gs_ir.posing_scenes import ATTRIBUTES, RULES, by_reference, inputs, native

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("count", [0, 1, 127, 700])
@pytest.mark.parametrize("rules", RULES, ids=[rules.normals for rules in RULES])
def test_pose_surfels(rules, count, dtype):
    """Fails when a thread reads another surfel, or a bone is missing from shared memory; expected at most 3e-5 of a
    gradient."""
    tensors = inputs(count, dtype, seed=count)
    leaves = [x.requires_grad_() for x in tensors[:ATTRIBUTES]]
    run, check = partial(native, rules=rules), partial(by_reference, rules=rules)
    tolerance = TOLERANCE[dtype]
    assert_agree(run, (*leaves, *tensors[ATTRIBUTES:]), reference=check, rtol=tolerance, atol=tolerance)
