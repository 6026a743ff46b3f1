"""Our own resources, as paths on an API server."""

from __future__ import annotations

from typing import Final

from aifactory.api import names
from aifactory.kube.resources import Resource

TRAININGJOBS: Final = Resource(names.GROUP, names.VERSION, "trainingjobs", "TrainingJob")
MODELVERSIONS: Final = Resource(names.GROUP, names.VERSION, "modelversions", "ModelVersion")
INFERENCEPOOLS: Final = Resource(names.GROUP, names.VERSION, "inferencepools", "InferencePool")
