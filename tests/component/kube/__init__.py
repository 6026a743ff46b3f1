"""The layer `kube` against a real API server."""
