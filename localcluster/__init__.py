"""A real one-node Kubernetes for development and tests, built from pinned sources.

Standard library only: everything here must run on a bare Debian that has Python, make and git and nothing else.
It is a development tool; a user with a cluster of their own never needs it.
"""
