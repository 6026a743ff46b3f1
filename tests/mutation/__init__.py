"""Mutation testing: a small change is made to the code, and some test must fail. See README.md."""
