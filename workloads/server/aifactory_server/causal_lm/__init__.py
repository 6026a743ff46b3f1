"""Back end `bytes`: byte-level language models with continuous batching.

`network` computes, `engine` decides who is computed for next, `text` turns bytes into text, `request` reads and checks
what a client wants. All four are plain Python and torch and know nothing of Triton; only `backend` does.
"""
