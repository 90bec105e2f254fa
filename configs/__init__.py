"""Configurations, one file for each kind of model, with presets such as `t2v:sd15`.

Installed as `magicvideo_jax.configs`; `--config=t2v:sd15` and `--config=configs/t2v.py:sd15` find them by name.
"""
