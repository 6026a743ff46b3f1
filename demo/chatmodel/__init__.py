"""`make chat-model`: a pretrained chat model for examples/chat-model.yaml, on a claim of the cluster."""
