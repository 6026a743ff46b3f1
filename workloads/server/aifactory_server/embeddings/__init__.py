"""Back end `embeddings`: one vector for a text, by models of format `huggingface` that encode and do not generate.

`encoder` computes and knows nothing of Triton; `backend` is what Triton calls.
"""
