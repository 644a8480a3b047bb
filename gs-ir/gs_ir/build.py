"""Build the native library: ``python -m gs_ir.build [--output FOLDER] [--only STEM ...]``.

Compiles ``csrc/*_cpu.cpp`` and, where both nvcc and a CUDA build of PyTorch are present, ``csrc/*_cuda.cu``.
"""

import argparse
import fcntl
import logging
import os
import shutil
from pathlib import Path

import torch
from torch.utils import cpp_extension

from gs_ir._library import DEFAULT_LIBRARY, fingerprint, stamp

SOURCE_FOLDER = Path(__file__).parents[1] / "csrc"
CPU_FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-std=c++20", "-w"]
CUDA_FLAGS = ["-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda", "-lineinfo"]

_log = logging.getLogger(__name__)


def sources(only: list[str] | None, with_cuda: bool) -> list[Path]:
    """The source files to compile, restricted to the operator stems in ``only`` when given."""
    found = sorted(SOURCE_FOLDER.glob("*_cpu.cpp"))
    if with_cuda:
        found += sorted(SOURCE_FOLDER.glob("*_cuda.cu"))
    if only:
        found = [p for p in found if p.stem.rsplit("_", 1)[0] in only]
    return found


def has_cuda_toolchain() -> bool:
    """True where kernels for the GPU can be compiled: a CUDA build of PyTorch and nvcc."""
    return torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None


def build(output: Path, only: list[str] | None = None, verbose: bool = False) -> Path:
    """Compile into folder ``output``; return the library's path.

    Raises:
        RuntimeError: no C++ compiler, or it failed (its output is part of the message).
    """
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        raise RuntimeError(
            "no C++ compiler found: install one (`apt install g++`) or set CXX; without it the references run"
        )
    with_cuda = has_cuda_toolchain()
    folder = output / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        # PyTorch's own marker outlives an interrupted build and would block the next one for ever.
        (folder / "lock").unlink(missing_ok=True)
        cpp_extension.load(
            name="libgs_ir",
            sources=[str(p) for p in sources(only, with_cuda)],
            extra_include_paths=[str(SOURCE_FOLDER / "include")],
            extra_cflags=CPU_FLAGS,
            extra_cuda_cflags=CUDA_FLAGS,
            extra_ldflags=["-fopenmp"],
            build_directory=str(folder),
            is_python_module=False,
            with_cuda=with_cuda,
            verbose=verbose,
        )
    library = output / DEFAULT_LIBRARY.name
    temporary = library.with_suffix(".so.partial")
    shutil.copyfile(folder / "libgs_ir.so", temporary)
    temporary.replace(library)
    stamp(library).write_text(fingerprint())
    return library


def main() -> None:
    """Command line of the build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_LIBRARY.parent, help="folder for libgs_ir.so")
    parser.add_argument("--only", nargs="*", help="operator stems to compile, for example: hash_grid bvh")
    parser.add_argument("--verbose", action="store_true", help="show the compiler's commands")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    library = build(arguments.output, arguments.only, arguments.verbose)
    _log.info("built %s (%s)", library, "CPU and CUDA" if has_cuda_toolchain() else "CPU")


if __name__ == "__main__":
    main()
