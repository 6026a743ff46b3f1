"""Unit tests of the layer `engine`."""
