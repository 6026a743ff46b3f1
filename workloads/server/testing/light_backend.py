"""Language models without torch, for tests of the agent: real Triton, loads in milliseconds, faults to order.

config.json may say `"loadSeconds"` (how long a load takes), `"loadError"` (the load fails with these words) and
`"answerError"` (it loads, but every request fails).
"""

import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        self.config = json.loads((folder / "config.json").read_text())
        self.name = f"{args['model_name']} {args['model_version']}"
        time.sleep(self.config.get("loadSeconds", 0))
        if "loadError" in self.config:
            raise ValueError(self.config["loadError"])

    def execute(self, requests):
        for request in requests:
            if "answerError" in self.config:
                response = pb.InferenceResponse(error=pb.TritonError(self.config["answerError"]))
            else:
                response = pb.InferenceResponse(
                    [pb.Tensor("text_output", np.array([self.name.encode()], dtype=object))]
                )
            request.get_response_sender().send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
