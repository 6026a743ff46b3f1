"""InferencePool: from a wish for a model to serving pods, and from one version to the next without losing a request.

Pure like its sister domains: `plan.plan_pool` decides, `kind` gathers. What always holds: the revision that takes the
traffic (`status.stable`) is only replaced by one whose every pod has the model loaded; a revision that does not load
is taken back to zero pods and not tried again until something changes; pods leave the endpoints before they are asked
to end.

A revision is one Deployment and one ConfigMap named `<pool>-<revision>`. Pods are left to the Deployment controller, so
that a lost pod is replaced also while the operator is away; which revision has how many pods is decided here.
"""
