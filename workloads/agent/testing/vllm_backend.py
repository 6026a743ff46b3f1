"""Stands in for Triton's vLLM back end (its src/model.py): what that asks of its files, and what it counts.

It asserts and reads what the real one does before it makes its engine, refuses arguments that vLLM does not know as
`AsyncEngineArgs` would, and tells its loggers of statistics what vLLM tells them; of its own counters it has two. It
answers as `text_backend` does, which lies beside it as the real one's helpers do.
"""

import json
import os
from types import SimpleNamespace

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
        self.args = args
        self._vllm_metrics = []
        if config["parameters"].get("REPORT_CUSTOM_METRICS", {}).get("string_value", "").lower() == "true":
            self._setup_metrics()
        self.loggers = [factory(None, 0) for factory in self._vllm_metrics]

    def _setup_metrics(self):
        self._vllm_metrics.append(Factory({"model": self.args["model_name"], "version": self.args["model_version"]}))

    def answer(self, request, sender):
        lora = json.loads(one(request, "sampling_parameters")).get("lora_name")
        if lora is not None and lora not in self.loras:
            error = pb.TritonError(f"LoRA {lora} is not supported, we currently support {self.loras}")
            sender.send(pb.InferenceResponse(error=error), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        if lora is not None:
            (self.folder / "asked-adapter").write_text(lora)
        prompt, tokens = len(one(request, "text_input").split()), json.loads(one(request, "sampling_parameters"))
        step = statistics(prompt, tokens["max_tokens"])
        for logger in self.loggers:
            logger.record(*step, mm_cache_stats=None, engine_idx=0)
        super().answer(request, sender)

    def finalize(self):
        for factory in self._vllm_metrics:
            factory.finalize()


class Factory:
    """Makes the real one's logger."""

    def __init__(self, labels):
        self.labels = labels

    def __call__(self, vllm_config, engine_index):
        return Logger(self.labels)

    def finalize(self):
        pass


class Logger:
    def __init__(self, labels):
        self.families = [
            pb.MetricFamily(name=name, description="Number of tokens processed.", kind=pb.MetricFamily.COUNTER)
            for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
        ]
        self.prompt, self.generated = (family.Metric(labels=labels) for family in self.families)

    def record(self, scheduler_stats, iteration_stats, mm_cache_stats=None, engine_idx=0):
        self.prompt.increment(iteration_stats.num_prompt_tokens)
        self.generated.increment(iteration_stats.num_generation_tokens)


def statistics(prompt, tokens):
    """A request as if it were read, answered and over in one step, with one that goes on and two that wait."""
    cache = SimpleNamespace(requests=1, queries=prompt, hits=prompt // 2)
    scheduler = SimpleNamespace(num_running_reqs=1, num_waiting_reqs=2, prefix_cache_stats=cache)
    over = SimpleNamespace(num_prompt_tokens=prompt, num_generation_tokens=tokens)
    step = SimpleNamespace(num_prompt_tokens=prompt, num_generation_tokens=tokens, finished_requests=[over])
    step.time_to_first_tokens_iter, step.inter_token_latencies_iter = [15.0], [0.01] * (tokens - 1)
    return scheduler, step
