"""The level-triggered reconcile loop: observe, plan, execute, one status write. Knows `kube`, knows no kind of ours.

A domain's planner returns a `decision`, its adapter (`kind`) turns that into a `plan`, `controller` carries it out.
What always holds: an object is never reconciled twice at the same time; nothing is remembered here that could not be
computed anew; a key that is due is either queued, being worked on, or waits for a timer.
"""
