"""The process: options, stores and controllers wired together, kopf as the shell, and what is served over HTTP.

Wiring only. What a job, a version or a pool needs is decided in its domain; how the API server is talked to is known
in `kube`; this package connects them and holds the two things that come from outside the API server: reports of
training programs (`progress`) and what serving pods say about themselves (`probes`).
"""
