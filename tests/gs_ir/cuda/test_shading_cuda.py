"""CUDA kernels of split-sum shading: both lobes and their gradients."""

from functools import partial

import pytest
import torch

from tests.gs_ir.cuda.agreement import assert_agree, moved
from tests.gs_ir.shading_scenes import F64, RULES, scene, shade_by_reference, shade_natively

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64])
TOLERANCE = {torch.float32: {"rtol": 1e-3, "atol": 5e-4}, F64: {"rtol": 1e-9, "atol": 1e-9}}


@DTYPES
@pytest.mark.parametrize("count", [0, 1, 700])
@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize(("turned", "open_sky"), [(False, False), (True, True)])
def test_lobes_and_gradients(
    dtype: torch.dtype, count: int, rules: tuple[bool, ...], turned: bool, open_sky: bool
) -> None:
    """Fails when a lobe, a gradient or a texel's sum differs from the CPU's; expected at most 2e-4 in float32, in the
    texels' gradients (any order of sums) and those of normals.
    """
    inputs = scene(count, dtype, open_sky=open_sky)
    operator, reference = (partial(f, rules=rules, turned=turned) for f in (shade_natively, shade_by_reference))
    assert_agree(operator, inputs, reference=reference, **TOLERANCE[dtype])


@DTYPES
def test_elements_without_cotangent_and_a_fixed_light(dtype: torch.dtype) -> None:
    """Fails when a skipped element's gradient is left unwritten, or an element's depends on the light being trained."""
    inputs = moved(scene(300, dtype), "cuda")
    elements, texels = inputs[:-1], inputs[-1]
    function = partial(shade_natively, rules=(True, True, True), turned=True)
    weights = (torch.arange(300, device="cuda") % 3 == 0).to(dtype)[:, None]
    sums = [sum((lobe * weights).sum() for lobe in function(*elements, x)) for x in (texels, texels.detach())]
    trained, fixed = (torch.autograd.grad(total, elements) for total in sums)
    for a, b in zip(trained, fixed):
        torch.testing.assert_close(a, b, **TOLERANCE[dtype])
        assert not a[1::3].any()
        assert a[::3].any()


def test_a_step_waits_for_nothing() -> None:
    """Fails when the kernels or their wrapper copy from the host or read back, once the table is there."""
    inputs = moved(scene(100, torch.float32), "cuda")
    function = partial(shade_natively, rules=(False, False, True), turned=False)

    def step() -> None:
        torch.autograd.grad(sum(lobe.sum() for lobe in function(*inputs)), inputs)

    step()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
