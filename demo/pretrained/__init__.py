"""`make chat-model`, `make embedding-model`: pretrained models for the examples of these names, on a claim."""
