"""Our own resources, as paths on an API server."""

from __future__ import annotations

from typing import Final

from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.custom import resource_of

TRAININGJOBS: Final = resource_of(TrainingJob)
MODELVERSIONS: Final = resource_of(ModelVersion)
INFERENCEPOOLS: Final = resource_of(InferencePool)
