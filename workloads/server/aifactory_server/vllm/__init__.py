"""Triton's own vLLM back end, as this factory uses it."""
