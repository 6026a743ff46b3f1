"""A version is tried before it may be Ready: loaded into the Triton of a pod that nobody uses, asked, and measured.

`requests` is what is asked and what an answer must be like, without I/O; `trial` loads, asks and measures.
"""
