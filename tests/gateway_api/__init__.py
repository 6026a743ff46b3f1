"""Pools behind a Gateway of the Gateway API's, as Envoy Gateway keeps it."""
