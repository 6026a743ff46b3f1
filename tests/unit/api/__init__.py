"""Unit tests of `aifactory.api`."""
