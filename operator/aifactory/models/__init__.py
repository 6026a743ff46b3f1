"""ModelVersion: an artifact is fetched and checked in a pod of its own before any pool may serve it.

Read `plan.plan_model_version` first; `domain` declares what the kind is made of. What always holds: Ready is True only
after a pod has read every byte and computed the digest; an artifact that is not sound is read again only when somebody
asks for it; the list of users in status is what the deletion guard reads.
"""
