"""Flags of XLA with which programs compile quickly: that takes longer than running them here.

Level 0 halves it, and XLA's older emitters of fused loops, which JAX 0.11 no longer has, take a third off the rest.
Neither changes a result beyond rounding. Programs compiled under the same flags share the cache.
"""

import sys

QUICK = "--xla_backend_optimization_level=0"
if sys.version_info < (3, 12):  # JAX 0.10, by requirements.txt
    QUICK += " --xla_cpu_use_fusion_emitters=false"
