"""Real models, computed by transformers' ContinuousBatchingManager: any causal language model, its cache in pages.

It knows one version of transformers exactly, as `attention` does: the manager is young and changes from release to
release. It is used through its interface, except for three things that it has no words for:
- It samples for all sequences alike. `model_runner._sample` gets the logits instead, and the engine chooses, for each
  sequence by its own parameters and seed; so the engine also knows each token before anybody else.
- A sequence ends when the engine says so: it is then given a token that no model has, and that is its end token. Its
  cache is free in the same step.
- How much of a prompt was in the cache already is seen where the manager looks for it (`cache.search_prefix_match`).

Traps of this version (5.23.0), each with its answer here:
- By default the cache takes 60 % of the memory that the *node* has: its size is always given.
- The mask of attention is a matrix of `max_batch_tokens` times the whole cache: see `attention`.
- Whatever fails in its thread ends the thread, and only a look at it tells. `failure` is that look.
- Results that nobody takes pile up: `refused` takes them.
- Weights that are missing in the files are made up, with a warning: in `loading` that is an error.
- It prepares a step on one CUDA stream and computes it on another, which does not wait: here there is one stream.
- Without psutil it takes the machine to have no memory at all.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import llguidance.hf
import torch
import transformers
from llguidance import LLTokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from aifactory_contract.refusals import NO_ROOM
from aifactory_server.device import more_memory, step_threads
from aifactory_server.engines import attention
from aifactory_server.engines.loading import LOCAL, load
from aifactory_server.engines.model import END, Step
from aifactory_server.engines.packing import pack
from aifactory_server.engines.request import BadRequest
from aifactory_server.engines.structure import Structure

_log = logging.getLogger(__name__)
TRANSFORMERS = "5.23.0"
"""The version this module is written for."""
_STOP_SECONDS = 10.0
_PAGE_TOKENS = 32
_CPU_STEP_TOKENS = 256
"""Tokens that are computed in one step at most: the longest that a prompt of one stalls the answers of others."""
_GPU_STEP_TOKENS = 2048
_MARGIN = 1.1
"""Room in the cache beyond what is promised to sequences: for a probe, and for pages that are not full."""
_LEAST_CONTEXT = 64
_CACHE_SHARE = 0.4
"""Of the memory that is left with the weights loaded. A second version must fit beside the first while they change."""
_COPY_SHARE = 0.05
"""Of the same, for weights that are there twice so that they are multiplied sooner."""
T = TypeVar("T")


class PagedModel:
    """A Hugging Face directory, loaded. Raises ValueError, with words for a person, if it can not be served.

    Args:
        folder: as `save_pretrained` writes it.
        free: bytes of the device's memory that are left.
        slots: sequences that are to run together at full length, if there is room.
        context: tokens of the longest sequence; None: what the model was made for, if there is room.
        cache_bytes: size of the cache; None: a share of what is left.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        free: Callable[[], int],
        *,
        slots: int,
        context: int | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        if transformers.__version__ != TRANSFORMERS:
            raise ValueError(
                f"this server is made for transformers {TRANSFORMERS}, {transformers.__version__} is installed; build "
                "the image from its lock file"
            )
        self._device, self._slots = device, slots
        self._model = _apart(lambda: load(AutoModelForCausalLM, folder, device, free()))
        _apart(lambda: pack(self._model, int(_COPY_SHARE * free())))
        # The manager takes few kinds of attention; ours is put in when it has taken the one it replaces.
        self._taken = self._model.config._attn_implementation
        self._own = self._taken == "sdpa" and attention.fits(device, self._model.dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        config = self._model.config.get_text_config()
        self.vocabulary = int(self._model.get_input_embeddings().num_embeddings)
        self.page = _PAGE_TOKENS
        self._step_tokens = _CPU_STEP_TOKENS if device.type == "cpu" else _GPU_STEP_TOKENS
        made_for = int(getattr(config, "max_position_embeddings", None) or 2048)
        wanted = min(made_for, context or made_for)
        self.room = min(
            slots * wanted, int((cache_bytes or _CACHE_SHARE * free()) / _MARGIN / self._token_bytes(config))
        )
        self.context = min(wanted, self.room)
        if self.context < min(wanted, _LEAST_CONTEXT):
            raise ValueError(
                f"{NO_ROOM} is left for the cache: {self.room} tokens fit, {_LEAST_CONTEXT} are the least; "
                f"{more_memory(device)}"
            )
        if self.context < wanted:
            _log.warning("the cache has room for sequences of %d tokens, the model for %d", self.context, wanted)
        if device.type == "cpu":
            self._share_out_steps(torch.get_num_threads())
        self._words = _words(self._tokenizer, self.vocabulary)
        self._no_token = max(self.vocabulary, int(getattr(config, "vocab_size", 0)))
        self._manager: Any = None

    def _share_out_steps(self, most: int) -> None:
        """Have each step computed by as many threads as its tokens are worth; each begins with looking them up."""
        matrices = [weight.numel() for weight in self.parameters if weight.dim() > 1]
        matrix = sum(matrices) // len(matrices)

        def share_out(_: Any, given: tuple[Tensor, ...]) -> None:
            torch.set_num_threads(step_threads(matrix, given[0].numel(), most))

        self._model.get_input_embeddings().register_forward_pre_hook(share_out)

    def _token_bytes(self, config: Any) -> float:
        """Bytes of one token in the cache, and of its column in the mask of attention where there is one."""
        size = self._model.dtype.itemsize
        cached = 2 * config.num_hidden_layers * find_num_key_value_heads(config) * find_head_dim(config) * size
        return float(cached + (0 if self._own else self._step_tokens * size) + 16)

    @property
    def parameters(self) -> list[Tensor]:
        """All weights."""
        return list(self._model.parameters())

    @property
    def end_tokens(self) -> frozenset[int]:
        """As the generation config, the config and the tokenizer say."""
        found: set[int] = set()
        for value in (
            getattr(self._model.generation_config, "eos_token_id", None),
            getattr(self._model.config, "eos_token_id", None),
            self._tokenizer.eos_token_id,
        ):
            found |= set(value) if isinstance(value, (list, tuple)) else {value} if isinstance(value, int) else set()
        return frozenset(token for token in found if 0 <= token < self.vocabulary)

    def encode(self, text: str) -> list[int]:
        """Tokens of a prompt. One that begins with the sign for the beginning of a text, as a chat template writes it,
        gets no second one."""
        begin = self._tokenizer.bos_token
        special = not (begin and text.startswith(begin))
        return list(self._tokenizer.encode(text, add_special_tokens=special, verbose=False))

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        """Text of tokens."""
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        decoder = fast if fast is not None else self._tokenizer
        return str(decoder.decode(tokens, skip_special_tokens=skip_special_tokens))

    def structure(self, schema: str) -> Structure:
        """What keeps an answer to a JSON schema. Raises BadRequest if it can not be kept."""
        if self._words is None:
            raise BadRequest("structured_outputs can not be had of this model: its tokenizer is of no kind that can")
        return Structure(self._words, schema, self.end_tokens)

    def start(self, step: Step, cached: Callable[[str, int], None]) -> None:
        """Make a manager and let it run; what an earlier one held is given up first."""
        self._manager = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
            torch.cuda.empty_cache()
        if self._own:
            self._model.set_attn_implementation(self._taken)
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(eos_token_id=self._no_token),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE_TOKENS,
                num_blocks=int(self.room * _MARGIN / _PAGE_TOKENS) + 2,
                max_batch_tokens=max(self._step_tokens, self._slots + 1),
                max_requests_per_batch=self._slots + 1,
                max_memory_percent=1.0,
                # With room reserved for each sequence, free pages only run short of those that keep old prompts.
                safety_margin=0.05,
                use_async_batching=False,
                use_cuda_graph=False,
                auto_switch_to_flash=False,
            ),
        )
        if self._own:
            self._model.set_attn_implementation(attention.NAME)
        # It makes the cache. What is the current GPU each thread has for itself.
        _apart(manager.warmup) if self._device.type == "cpu" else manager.warmup()
        processor = manager.batch_processor
        batch, end = processor.inputs_and_outputs, self._no_token
        batch.compute_stream = None

        def sample(scores: Tensor, output_ids: Tensor) -> None:
            futures = [future for future in batch.requests_in_batch if future.has_new_token]
            if futures:
                ids = [future.state.request_id for future in futures]
                tokens = [end if token == END else token for token in step(ids, scores[0, : len(ids)])]
                output_ids[0, : len(ids)].copy_(torch.tensor(tokens, dtype=output_ids.dtype))
                for future, token in zip(futures, tokens, strict=True):
                    if token == end:
                        # The manager keeps nothing of the step that ends a request: of short answers not the prompt.
                        processor.cache.mark_complete_blocks(future.state, future.complete_blocks)

        search = processor.cache.search_prefix_match

        def search_prefix_match(request_id: str, prompt_ids: list[int]) -> int:
            found = int(search(request_id, prompt_ids))
            if found:
                cached(request_id, found)
            return found

        processor.model_runner._sample = sample
        processor.cache.search_prefix_match = search_prefix_match
        self._manager = manager
        # Its thread is to die with the process, which it does if the one that starts it is such a thread.
        _apart(manager.start)

    def add(self, sequence: str, tokens: list[int]) -> None:
        """Compute a sequence; nothing happens if the manager has failed, which `failure` tells."""
        self._manager.add_request(tokens, request_id=sequence, eos_token_id=self._no_token)

    def cancel(self, sequence: str) -> None:
        """Free its cache before the next step."""
        self._manager.cancel_request(sequence)

    def refused(self) -> list[tuple[str, str]]:
        """What the manager says has failed; that something was finished is known already."""
        found = []
        while (result := self._manager.get_result(timeout=0)) is not None:
            if result.error is not None:
                found.append((result.request_id, str(result.error)))
        return found

    def failure(self) -> str | None:
        """Whether its thread has ended, and by what."""
        error = self._manager.background_thread_status.fatal_error
        if error is not None:
            return f"{type(error).__name__}: {error}"
        return None if self._manager.is_running() else "its thread has ended"

    def stop(self) -> None:
        """End the thread."""
        if self._manager is not None and self._manager.is_running():
            self._manager.stop(block=True, timeout=_STOP_SECONDS, hard_stop=True)


def _apart(work: Callable[[], T]) -> T:
    """Do something in a thread of its own, and wait for it.

    With it end the threads that OpenMP has made for it. If they stayed, there would be more than there are CPUs,
    with those of the thread that computes, and libgomp then lets none wait awake: a step takes half as long again.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    return done.result()


def _words(tokenizer: Any, vocabulary: int) -> LLTokenizer | None:
    """What llguidance needs to know of a tokenizer; None if it is of a kind that it does not know."""
    try:
        return llguidance.hf.from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)))
    except ValueError as error:
        _log.warning("answers of this model can keep to no JSON schema: %s", error)
        return None
