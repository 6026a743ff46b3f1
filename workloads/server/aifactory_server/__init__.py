"""Triton with the factory's back ends: the start of the server, and the models that run in it.

`launch` starts tritonserver and ends there (it becomes tritonserver). `causal_lm`, `generate`, `embeddings`,
`onnx`, `torch_export` and `vllm` run in the worker processes of Triton's Python back end, a package for each. Nothing
here fetches anything, and nothing unpickles: what is in the repository was put there, and checked, by the agent.
"""

__version__ = "0.1.0"
