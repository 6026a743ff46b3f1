"""Back end `transformers`: language models by the interface of Triton's own vLLM back end.

`request` reads what clients write and `backend` is what Triton calls; all else is in `engines`.
"""
