"""Stands in for Triton's vLLM back end (its src/model.py): what that asks of its files, and what it counts.

It asserts and reads what the real one does before it makes its engine, refuses arguments that vLLM does not know as
`AsyncEngineArgs` would, and has two of its counters. It answers as `text_backend` does, which lies beside it as the
real one's helpers do.
"""

import json
import os

import triton_python_backend_utils as pb
from text_backend import TritonPythonModel as TextModel
from text_backend import one

KNOWN = {"model", "tensor_parallel_size", "max_model_len", "max_num_seqs", "gpu_memory_utilization", "quantization"}
KNOWN |= {"enable_lora", "max_lora_rank", "max_loras"}


class TritonPythonModel(TextModel):
    def initialize(self, args):
        super().initialize(args)
        config = json.loads(args["model_config"])
        assert pb.using_decoupled_model_transaction_policy(config)
        assert pb.get_output_config_by_name(config, "text_output")["data_type"] == "TYPE_STRING"
        with open(os.path.join(pb.get_model_dir(), "model.json")) as file:
            arguments = json.load(file)
        for name in arguments:
            if name not in KNOWN:
                raise TypeError(f"AsyncEngineArgs.__init__() got an unexpected keyword argument '{name}'")
        if args["model_instance_kind"] == "GPU" and arguments["tensor_parallel_size"] > 1:
            raise ValueError("KIND_GPU is currently for single-GPU models")
        assert os.path.isfile(os.path.join(arguments["model"], "config.json"))
        self.loras = []
        if str(arguments.get("enable_lora")).lower() == "true":
            with open(os.path.join(pb.get_model_dir(), "multi_lora.json")) as file:
                self.loras = list(json.load(file))
        self.counters = {}
        if config["parameters"].get("REPORT_CUSTOM_METRICS", {}).get("string_value", "").lower() == "true":
            labels = {"model": args["model_name"], "version": args["model_version"]}
            for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total"):
                family = pb.MetricFamily(
                    name=name, description="Number of tokens processed.", kind=pb.MetricFamily.COUNTER
                )
                self.counters[name] = (family, family.Metric(labels=labels))

    def answer(self, request, sender):
        lora = json.loads(one(request, "sampling_parameters")).get("lora_name")
        if lora is not None and lora not in self.loras:
            error = pb.TritonError(f"LoRA {lora} is not supported, we currently support {self.loras}")
            sender.send(pb.InferenceResponse(error=error), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        if lora is not None:
            (self.folder / "asked-adapter").write_text(lora)
        for name, tokens in (
            ("vllm:prompt_tokens_total", len(one(request, "text_input").split())),
            ("vllm:generation_tokens_total", json.loads(one(request, "sampling_parameters"))["max_tokens"]),
        ):
            if name in self.counters:
                self.counters[name][1].increment(tokens)
        super().answer(request, sender)
