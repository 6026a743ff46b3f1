"""Unit tests of `tests.mutation`."""
