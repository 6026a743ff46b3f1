"""Unit tests of `aifactory.training`."""
