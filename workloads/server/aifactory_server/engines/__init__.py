"""What computes. Nothing here knows Triton.

`paged` holds the model and its paged cache, and hands out logits; of the others only `loading` and `attention` know
transformers.
`engine` decides who is computed for and how answers end, `sampling` chooses tokens, `detokenizer` turns them into text.
"""
