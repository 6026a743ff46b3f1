"""Unit tests of the layer `kube`."""
