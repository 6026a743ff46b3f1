"""`make gpu-check`: the trainer and the server on a real GPU, without a cluster.

Role: run the programs of `workloads/trainer` and `workloads/server` as they are, on one machine with PyTorch and
nothing installed, and say what holds there and how fast it is. Triton and Kubernetes are not needed: the back ends are
driven through a stand-in for Triton's Python module.

What always holds:
- Each part is a process of its own: one that fails, hangs or breaks its CUDA context is reported, and the next
  one runs.
- The same code runs in miniature on a CPU (`--tiny`), which is a test, so that it works where a GPU costs money.
"""
