"""A simulated cluster with the real operator in it; see README.md."""
