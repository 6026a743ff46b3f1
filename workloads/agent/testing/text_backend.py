"""A model for Triton's Python back end that speaks the interface of its vLLM back end, without a model.

It says `w0 w1 ...` as often as it is asked to, `slow` seconds between the words where the prompt says `slow <seconds>`,
and refuses prompts that say `refuse`. Requests that were cancelled are counted in the file `cancelled` of its version.
config.json may say `"loadSeconds"`.
"""

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

from aifactory_contract import refusals

LAST = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"]) / args["model_version"]
        with suppress(OSError):
            time.sleep(json.loads((self.folder / "config.json").read_text()).get("loadSeconds", 0))

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request, request.get_response_sender())).start()

    def answer(self, request, sender):
        prompt = one(request, "text_input").decode()
        sampling = json.loads(one(request, "sampling_parameters"))
        if "refuse" in prompt:
            words = refusals.tell(refusals.INVALID, "this prompt is refused", json.loads(request.parameters()))
            error = pb.TritonError(words, pb.TritonError.INVALID_ARG)
            sender.send(pb.InferenceResponse(error=error), flags=LAST)
            return
        pause = float(prompt.split("slow ")[1].split()[0]) if "slow " in prompt else 0
        many, words = sampling["max_tokens"], []
        for number in range(many):
            time.sleep(pause)
            if sender.is_cancelled():
                with (self.folder / "cancelled").open("a") as file:
                    file.write("x")
                sender.send(flags=LAST)
                return
            words.append(f"w{number} ")
            if one(request, "stream") or number == many - 1:
                finish = "length" if number == many - 1 else "None"
                sender.send(answer(prompt, words, finish), flags=LAST if finish == "length" else 0)
                words.clear()


def one(request, name):
    tensor = pb.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().flatten()[0]


def answer(prompt, words, finish):
    def text(name, value):
        return pb.Tensor(name, np.array([value.encode()], dtype=np.object_))

    def count(name, value):
        return pb.Tensor(name, np.array([value], dtype=np.uint32))

    tensors = [text("text_output", "".join(words)), text("finish_reason", finish)]
    return pb.InferenceResponse(
        [*tensors, count("num_input_tokens", len(prompt.split())), count("num_output_tokens", len(words))]
    )
