"""The agent beside a Triton server: makes actual what is desired, and says honestly how far it is.

`planner` decides and does no I/O; `reconciler` observes, asks the planner and carries out; `triton` and `repository`
are the two places where something happens. The agent keeps no state that it can not find again on the volume or in
Triton, so it may be killed at any time. It talks to Triton over gRPC on localhost only: a load over HTTP would block
one of Triton's HTTP threads, and with it all clients on that thread, for as long as the load takes.
"""
