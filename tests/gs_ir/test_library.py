"""How the native library is found, and what happens where there is none."""

import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gs_ir
from gs_ir._library import LIBRARY_VARIABLE, define, define_backward

PACKAGE = Path(gs_ir.__file__).parent
MODULES = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "gs_ir.")]
SOURCES = sorted(p for p in (PACKAGE.parent / "csrc").rglob("*") if p.is_file())


def _run(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run ``code`` in a fresh interpreter that finds gs_ir in ``folder`` and sees no GPU."""
    environment = {k: v for k, v in os.environ.items() if k != LIBRARY_VARIABLE}
    environment |= {"PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def unbuilt(tmp_path) -> Path:
    """A folder with a copy of the package as it is before any build."""
    shutil.copytree(PACKAGE, tmp_path / "gs_ir", ignore=shutil.ignore_patterns("lib", "__pycache__"))
    return tmp_path


def test_missing_named_library_raises(tmp_path):
    """A mistyped GS_IR_LIBRARY must not silently run the slow references."""
    missing = tmp_path / "nowhere.so"
    done = _run("import gs_ir", PACKAGE.parent, **{LIBRARY_VARIABLE: str(missing)})
    assert done.returncode != 0
    assert "FileNotFoundError" in done.stderr
    assert str(missing) in done.stderr
    assert "make native" in done.stderr


def test_references_run_without_library(unbuilt):
    """Without a build one line is logged, and an operator computes and differentiates."""
    code = (
        "import logging; logging.basicConfig(format='LOG %(message)s')\n"
        "import gs_ir, torch\n"
        "from gs_ir.marching import render_weights\n"
        "assert gs_ir.NATIVE_LIBRARIES == []\n"
        "alphas = torch.tensor([0.5, 0.5], requires_grad=True)\n"
        "weights = render_weights(alphas, torch.tensor([[0, 2]]))\n"
        "weights.sum().backward()\n"
        "print(weights.tolist(), alphas.grad.tolist())\n"
    )
    done = _run(code, unbuilt)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0.5, 0.25] [0.5, 0.5]"
    assert done.stderr.count("LOG ") == 1
    assert "using the PyTorch references" in done.stderr


def test_import_starts_nothing_and_needs_no_gpu(unbuilt):
    """Fails when importing a module compiles, or initialises CUDA."""
    code = (
        "import importlib, sys, torch\n"
        "started = []\n"
        "sys.addaudithook(lambda event, args: started.append(args) if event == 'subprocess.Popen' else None)\n"
        f"for name in {MODULES}: importlib.import_module(name)\n"
        "assert not started, started\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    done = _run(code, unbuilt)
    assert done.returncode == 0, done.stderr
    assert not (unbuilt / "gs_ir" / "lib").exists()


def test_everything_exported_is_documented():
    """Fails when __all__ names something that is gone, or that has no docstring."""
    assert [n for n in gs_ir.__all__ if n != "NATIVE_LIBRARIES" and not getattr(gs_ir, n).__doc__] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_native_sources_do_not_bind_to_python(path):
    """One library serves every Python version, so the sources see neither Python nor pybind."""
    included = [line for line in path.read_text().splitlines() if line.lstrip().startswith("#include")]
    assert [i for i in included if "Python.h" in i or "torch/extension.h" in i or "pybind" in i] == []


def test_backward_of_a_reference():
    """The default backward fills zeros for inputs without influence and leaves integers and options out."""

    def product(a, b, c, index, *, scale: float):
        return a * b[index] * scale

    define("product_for_test", "(Tensor a, Tensor b, Tensor c, Tensor index, *, float scale) -> Tensor", product)
    signature = "(Tensor grad, Tensor a, Tensor b, Tensor c, Tensor index, *, float scale) -> (Tensor, Tensor, Tensor)"
    define_backward("product_for_test_backward", signature, product)
    a, b, c = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0, 11.0]), torch.ones(4)
    index = torch.tensor([2, 0])
    gradients = torch.ops.gs_ir.product_for_test_backward(torch.ones(2), a, b, c, index, scale=10.0)
    assert [g.tolist() for g in gradients] == [[110.0, 50.0], [30.0, 0.0, 20.0], [0.0] * 4]
