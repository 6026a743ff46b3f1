"""The AI factory operator: TrainingJob, ModelVersion and InferencePool objects become pods that train and serve.

Layers, lowest first: `api` (the contract with users), `kube` (talking to an API server), `engine` (the reconcile
loop), `training` / `models` / `serving` (pure planning, one domain each), `app` (wiring). A lower layer never imports
a higher one and the three domains do not import each other; `make verify` checks both.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("aifactory")
except PackageNotFoundError:  # in an image the package is copied, not installed; the build stamps nothing
    __version__ = "0.1.0"
