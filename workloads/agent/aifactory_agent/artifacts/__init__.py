"""Artifacts in their stores, a volume or an object store, and the ways between these and a directory.

An artifact is immutable and is known by the digest of its manifest. Nothing here trusts a store: whatever is read is
hashed while it is read, and the digest is compared before anybody gets to use the bytes.
"""
