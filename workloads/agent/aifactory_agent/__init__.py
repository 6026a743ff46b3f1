"""Moves models between stores and Triton: publish, verify, and the agent beside every Triton server.

Two layers. `artifacts` moves artifacts between the places where they are kept; it knows nothing of Triton.
`serve` brings the desired models up in one Triton server; it uses `artifacts` to get them. Neither imports torch: this
image also runs on nodes where a multi-gigabyte framework has no business.
"""

__version__ = "0.1.0"
