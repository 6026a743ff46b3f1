"""ModelVersion: an artifact is fetched and checked in a pod of its own before any pool may serve it.

Read `plan.plan_model_version` first; `domain` declares what the kind is made of. What always holds: Ready is True only
after a pod has read every byte and computed the digest; a version that failed for good is not tried again, because its
spec can not change; the list of users in status is what the deletion guard reads.
"""
