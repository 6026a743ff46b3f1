"""The real operator process against a real API server, with something wrong between them or with one of them."""
