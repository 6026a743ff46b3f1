"""What fine-tuning on answers (sft.py) and on preferences (dpo.py) have in common.

Role: their settings, the arguments of transformers' Trainer, its lines of progress, and what is measured once for all
attempts. The model is in base.py, what is learnt from in chat.py and preferences.py.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import TrainerCallback, TrainingArguments

from aifactory_contract.errors import FactoryError
from aifactory_contract.files import write_atomically
from aifactory_contract.formats import adapters
from aifactory_contract.names import check_model_name
from aifactory_trainer import World, base, causal, chat, export_huggingface, measured, saved
from aifactory_trainer.base import ALL_LINEAR, Adapter
from aifactory_trainer.distributed import Group
from aifactory_trainer.environment import Environment
from aifactory_trainer.export import export_adapter
from aifactory_trainer.harness import APPLY_CHAT_TEMPLATE
from aifactory_trainer.huggingface import FactoryCallback
from aifactory_trainer.measured import Measured
from aifactory_trainer.program import find, positive, rate, share

log = logging.getLogger("aifactory")

LONGEST = 2048
"""Tokens of a conversation, where neither --max-length nor the model says less."""
WARM_UP = 0.03
"""Share of the steps."""
Part = TypeVar("Part", bound=chat.Asked)


@dataclass(frozen=True, slots=True)
class Tuning:
    """One run, as the command line asks for it; fields are options of the same name.

    Attributes:
        base: directory of the model to begin with, or the name of an input.
        data: file or directory to learn from, or the name of an input.
        hold_out: the same of what to measure on; None: a share of the data.
        hold_out_share: that share.
        full: train all numbers of the model; otherwise a LoRA adapter, which is merged at the end.
        publish_adapter: name of the adapter, which is published beside the base; None: it is merged.
        lora_rank, lora_alpha, lora_targets: of the adapter; targets are names of layers, with commas between them.
        epochs: how often each line is seen.
        batch: lines a step in each process, `accumulate` times.
        learning_rate: the highest one; None: the program's.
        max_length: tokens of a conversation; longer ones are left out.
        tasks: file or directory of questions that the result is measured by, or the name of an input.
        apply_chat_template: have the chat template write the questions of lm-eval's task files.
        activation_checkpointing: compute activations twice rather than keep them.
        chat_template: file with one; None: the base's.
        seed: of adapter and order.
        checkpoint_every: steps between checkpoints; None: by time alone.
        keep: checkpoints that stay.
    """

    base: str
    data: str
    hold_out: str | None
    hold_out_share: float
    full: bool
    publish_adapter: str | None
    lora_rank: int
    lora_alpha: int
    lora_targets: str
    epochs: float
    batch: int
    accumulate: int
    learning_rate: float | None
    max_length: int | None
    tasks: str | None
    apply_chat_template: bool
    activation_checkpointing: bool
    chat_template: str | None
    seed: int
    checkpoint_every: int | None
    keep: int

    @property
    def adapter(self) -> Adapter | None:
        """None: all of the model is trained."""
        return None if self.full else Adapter(self.lora_rank, self.lora_alpha, self.lora_targets)


def add_options(
    parser: argparse.ArgumentParser, *, lines: str, data: str, epochs: float, batch: int, rates: dict[bool, float]
) -> None:
    """The options of `Tuning`.

    Args:
        lines: what a line is, in the plural.
        data: default of --data.
        rates: highest learning rate of full fine-tuning and of LoRA.
    """
    add = parser.add_argument
    add("--base", default="base", help="model to begin with: an input's name or a directory (default: %(default)s)")
    add("--data", default=data, help=f"{lines}: an input's name, a directory or a .jsonl file (%(default)s)")
    add("--hold-out", help=f"{lines} to measure on, as --data; default: a share of the data")
    add("--hold-out-share", type=share, default=0.05, help="that share, by a hash of what users say (%(default)s)")
    add("--full", action="store_true", help="train the whole model; default: a LoRA adapter, merged at the end")
    add(
        "--publish-adapter",
        metavar="NAME",
        type=adapter_name,
        help="publish the adapter by this name beside the base, rather than merged; only the engine vllm serves it",
    )
    add("--lora-rank", type=positive, default=16, help="(%(default)s)")
    add("--lora-alpha", type=positive, default=32, help="(%(default)s)")
    add("--lora-targets", default=ALL_LINEAR, help="names of layers, as q_proj,v_proj (%(default)s)")
    add("--epochs", type=rate, default=epochs, help="how often each of them is seen (%(default)s)")
    add("--batch", type=positive, default=batch, help=f"{lines} at a time in each process (%(default)s)")
    add("--accumulate", type=positive, default=1, help="so many batches make one step (%(default)s)")
    add("--learning-rate", type=rate, help=f"highest learning rate (LoRA {rates[False]:g}, full {rates[True]:g})")
    add("--max-length", type=positive, help=f"tokens; longer ones are left out (the model's, at most {LONGEST})")
    add("--tasks", help="questions with right answers that the result is measured by, as evaluate takes them")
    add("--apply-chat-template", action="store_true", help=APPLY_CHAT_TEMPLATE)
    add("--activation-checkpointing", action="store_true", help="less memory, a third more computing")
    add("--chat-template", help="file with a chat template, where the base has none or a worse one")
    add("--seed", type=int, default=1337, help="of adapter and order (%(default)s)")
    add("--checkpoint-every", type=positive, help="steps; default: by time alone")
    add("--keep", type=positive, default=3, help="checkpoints that stay (%(default)s)")


def adapter_name(text: str) -> str:
    """What clients can call an adapter by."""
    try:
        return check_model_name(text)
    except FactoryError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> dict[str, Any]:
    """Read a command line with these options."""
    found = vars(parser.parse_args(arguments))
    if found["publish_adapter"] is not None:
        if found["full"]:
            parser.error("with --full there is no adapter: leave out --publish-adapter")
        if found["lora_rank"] > adapters.RANKS[-1]:
            parser.error(
                f"an adapter with --lora-rank over {adapters.RANKS[-1]} is not served: leave out --publish-adapter"
            )
    return found


def finished(settings: Tuning, model: Any, config: Any, world: World) -> Any:
    """The trained model as it will be published, to be measured."""
    return model if settings.publish_adapter is not None else base.finished(model, config, world)


def publish(settings: Tuning, tuned: Any, tokenizer: Any, config: Any, metrics: Mapping[str, float]) -> None:
    """Write the result: what `finished` gave. Raises as `export_huggingface` does."""
    if settings.publish_adapter is None:
        path = export_huggingface(tuned.to(causal.own_type(config)), tokenizer, metrics=metrics)
    else:
        folder = find(settings.base, "--base")
        path = export_adapter(tuned, tokenizer, settings.publish_adapter, folder, metrics=metrics)
    log.info("exported to %s", path)


def split(settings: Tuning, every: Sequence[Part], read: Callable[[Any], list[Part]]) -> chat.Split[Part]:
    """What is learnt from and what is held out.

    Args:
        read: reads what is in a file or directory.

    Raises:
        ChatError: one of the two would be empty.
    """
    if settings.hold_out is None:
        return chat.split(every, settings.hold_out_share)
    parts = chat.split_from(every, read(find(settings.hold_out, "--hold-out")))
    if parts.dropped:
        log.info("%d lines are not trained on: their questions are in the hold-out", parts.dropped)
    return parts


def load_tasks(settings: Tuning, tokenizer: Any, config: Any) -> dict[str, Measured]:
    """What the result is measured by, by name; see `measured.tasks`."""
    if settings.tasks is None:
        return {}
    longest = base.longest(config, settings.max_length, LONGEST)
    tasks = find(settings.tasks, "--tasks")
    return measured.tasks(tasks, tokenizer, longest, chats=settings.apply_chat_template)


def ask(tasks: Mapping[str, Measured], model: Any, tokenizer: Any, batch: int, world: World) -> dict[str, float]:
    """The figures of the tasks, as the lineage names them."""
    found = {name: measured.ask(task, model, tokenizer, batch, world) for name, task in tasks.items()}
    return measured.flat(found)


def facts(settings: Tuning, learning_rate: float, data: str, **more: object) -> dict[str, object]:
    """What a run that resumes must have in common with the one that wrote the checkpoint.

    Args:
        data: tells what is learnt from other data.
    """
    return {
        "base": saved.fingerprint(find(settings.base, "--base")),
        "data": data,
        "batch": settings.batch * settings.accumulate,
        "learning rate": learning_rate,
        "seed": settings.seed,
        **({} if settings.full else {"LoRA alpha": settings.lora_alpha}),
        **more,
    }


def training_arguments(settings: Tuning, learning_rate: float, world: World) -> TrainingArguments:
    """As transformers' Trainer takes them."""
    gpu = world.device.type == "cuda"
    return TrainingArguments(
        output_dir=str(Environment.read().checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARM_UP,
        bf16=gpu,
        use_cpu=not gpu,
        seed=settings.seed,
        save_strategy="no" if settings.checkpoint_every is None else "steps",
        save_steps=settings.checkpoint_every or 1,
        save_total_limit=settings.keep,
        logging_strategy="no",  # the callback asks for the loss, by time
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        ddp_find_unused_parameters=False,
        activation_checkpointing=settings.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.activation_checkpointing else None,
    )


class Lines(TrainerCallback):
    """A line of progress, as the callback asks for the loss."""

    def __init__(self, factory: FactoryCallback) -> None:
        self._factory = factory

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss, speed = kwargs["logs"].get("loss"), self._factory.tokens_per_second
        if state.is_world_process_zero and loss is not None:
            tokens = f"  {speed:,.0f} tokens/s" if speed is not None else ""
            log.info("step %d/%d  loss %.3f%s", state.global_step, state.max_steps, loss, tokens)


def once(name: str, of: str, measure: Callable[[], list[float]]) -> list[float]:
    """Numbers as an earlier attempt measured them, else as they are measured now, by all ranks together.

    Args:
        name: file beside the checkpoints.
        of: what tells this model and data from others.
    """
    path, group = Environment.read().checkpoints / name, Group()
    told = group.broadcast(None if group.rank else path.read_bytes() if path.is_file() else b"")
    known = json.loads(told) if told else {}
    if known.get("of") == of:
        return [float(number) for number in known["numbers"]]
    numbers = measure()
    if group.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"of": of, "numbers": numbers}))
    return numbers
