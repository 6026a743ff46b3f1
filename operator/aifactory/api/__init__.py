"""The contract with users: kinds, fields, conditions, reasons and the CRDs rendered from them.

Everything a user can write or read back is defined here and nowhere else. This package imports nothing of ours, does
no I/O at run time and reads no clock: `crds/` and the reference pages are generated from it.
"""
