"""Unit tests of `aifactory.models`."""
