"""Remove chosen knowledge from a Mixture-of-Experts language model by changing one expert.

Start reading at `seuf.unlearning.algorithm`; docs/design.md draws the rooms.
"""

import os

__version__ = "0.1.0"

# OpenMP threads that spin while they wait make torch ten times slower on shared cores; this is
# read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A workspace of fixed size, without which cuBLAS may sum in another order each time; this is read
# when CUDA is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
