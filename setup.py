"""Packages of the wheel: `magicvideo_jax`, and `configs/` installed as `magicvideo_jax.configs`.

All else is in pyproject.toml, which can list a package kept elsewhere only by listing every other package too.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["magicvideo_jax*"]), "magicvideo_jax.configs"],
    package_dir={"magicvideo_jax.configs": "configs"},
)
