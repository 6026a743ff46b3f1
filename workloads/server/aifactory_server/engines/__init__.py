"""What computes. Nothing here knows Triton.

`paged` is the only module that knows transformers: it holds the model and its paged cache, and hands out logits.
`engine` decides who is computed for and how answers end, `sampling` chooses tokens, `detokenizer` turns them into text.
"""
