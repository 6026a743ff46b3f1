"""TrainingJob: from a spec and the pods that exist to the pods, the ModelVersion and the status that should exist.

Everything here is pure: `plan.plan_training(observed, now)` decides, `kind` gathers what it decides on from the stores.
What always holds: `status.attempt` grows before any pod of an older attempt is removed because of it; pods of two
attempts never run side by side by our doing; a pod's name is never used twice for different attempts; a job is
Complete only after its ModelVersion exists.
"""
