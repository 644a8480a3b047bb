"""Install the Python side of gs_ir; the native library is built by ``python -m gs_ir.build``."""

from setuptools import find_packages, setup

setup(
    name="gs-ir",
    version="0.1.0",
    description="Native operators for neural avatars: hash grids, skinning, BVH, surfels, probes, light",
    packages=find_packages(include=["gs_ir", "gs_ir.*"]),
    python_requires=">=3.10",
    install_requires=["torch>=2.11"],
)
