"""Unit tests of `aifactory.serving`."""
