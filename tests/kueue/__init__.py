"""The real Kueue in the local cluster: `make test-kueue`."""
