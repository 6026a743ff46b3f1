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
        self.counters = {}
        if config["parameters"].get("REPORT_CUSTOM_METRICS", {}).get("string_value", "").lower() == "true":
            labels = {"model": args["model_name"], "version": args["model_version"]}
            for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total"):
                family = pb.MetricFamily(
                    name=name, description="Number of tokens processed.", kind=pb.MetricFamily.COUNTER
                )
                self.counters[name] = (family, family.Metric(labels=labels))

    def answer(self, request, sender):
        for name, tokens in (
            ("vllm:prompt_tokens_total", len(one(request, "text_input").split())),
            ("vllm:generation_tokens_total", json.loads(one(request, "sampling_parameters"))["max_tokens"]),
        ):
            if name in self.counters:
                self.counters[name][1].increment(tokens)
        super().answer(request, sender)
