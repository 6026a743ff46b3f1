"""Fine-tune a language model on conversations (supervised fine-tuning), with LoRA or in full.

    torchrun -m aifactory_trainer.sft --base=base --data=chat

Role: a whole training program that is read in one sitting: the job's inputs, checked before anything is trained; the
loop by transformers' Trainer with `FactoryCallback`; the result a directory as the base was one. Conversations and
their tokens are in chat.py, the model is in base.py.

Not by trl: its SFTTrainer needs `datasets`, whose pyarrow needs a newer NumPy than the torch layer has; and what is
special here, which tokens are learnt, it takes from marks in chat templates that few bases have.

What always holds:
- What is wrong with the inputs is told in one sentence before training begins, and the job is not restarted for it.
- The hold-out is measured before and after with the same numbers: the base as it came, and the model as it is published
  (adapters merged, weights in the base's type). Both go into the lineage.
- A run that was killed and resumed ends with the same weights as one that was not, up to rounding.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.data.data_collator import DataCollatorWithFlattening
from transformers.utils import logging as transformers_logging

from aifactory_contract.errors import FactoryError
from aifactory_contract.files import write_atomically
from aifactory_contract.formats import HUGGINGFACE, check_directory
from aifactory_trainer import CheckpointError, World, base, causal, chat, errors, export_huggingface, give_up, start
from aifactory_trainer.base import ALL_LINEAR, Adapter
from aifactory_trainer.distributed import Group
from aifactory_trainer.environment import Environment
from aifactory_trainer.huggingface import FactoryCallback
from aifactory_trainer.program import BadInputError, Parser, find, leave, positive, rate

log = logging.getLogger("aifactory")

LEARNING_RATE = {True: 2e-5, False: 2e-4}
"""The highest one, of full fine-tuning and of LoRA."""
LONGEST = 2048
"""Tokens of a conversation, where neither --max-length nor the model says less."""
WARM_UP = 0.03
"""Share of the steps."""
BASE_LOSS = "base-loss.json"
"""Beside the checkpoints: what the base's loss is, so that a restart need not measure it again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run, as the command line asks for it; fields are options of the same name.

    Attributes:
        base: directory of the model to begin with, or the name of an input.
        data: file or directory of conversations, or the name of an input.
        hold_out: the same of those to measure on; None: a share of the data.
        hold_out_share: that share.
        full: train all numbers of the model; otherwise a LoRA adapter, which is merged at the end.
        lora_rank, lora_alpha, lora_targets: of the adapter; targets are names of layers, with commas between them.
        epochs: how often each conversation is seen.
        batch: conversations a step in each process, `accumulate` times.
        learning_rate: the highest one; None: LEARNING_RATE.
        max_length: tokens of a conversation; longer ones are left out.
        packing: the conversations of a batch stand in one row, without padding.
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
    lora_rank: int
    lora_alpha: int
    lora_targets: str
    epochs: float
    batch: int
    accumulate: int
    learning_rate: float | None
    max_length: int | None
    packing: bool
    activation_checkpointing: bool
    chat_template: str | None
    seed: int
    checkpoint_every: int | None
    keep: int

    @property
    def adapter(self) -> Adapter | None:
        """None: all of the model is trained."""
        return None if self.full else Adapter(self.lora_rank, self.lora_alpha, self.lora_targets)


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a bad one ends the process with code 2."""
    parser = Parser(prog="aifactory_trainer.sft", description="Fine-tune a language model on conversations.")
    add = parser.add_argument
    add("--base", default="base", help="model to begin with: an input's name or a directory (default: %(default)s)")
    add("--data", default="chat", help="conversations: an input's name, a directory or a .jsonl file (%(default)s)")
    add("--hold-out", help="conversations to measure on, as --data; default: a share of the data")
    add("--hold-out-share", type=share, default=0.05, help="that share, by a hash of what users say (%(default)s)")
    add("--full", action="store_true", help="train the whole model; default: a LoRA adapter, merged at the end")
    add("--lora-rank", type=positive, default=16, help="(%(default)s)")
    add("--lora-alpha", type=positive, default=32, help="(%(default)s)")
    add("--lora-targets", default=ALL_LINEAR, help="names of layers, as q_proj,v_proj (%(default)s)")
    add("--epochs", type=rate, default=3.0, help="how often each conversation is seen (%(default)s)")
    add("--batch", type=positive, default=8, help="conversations at a time in each process (%(default)s)")
    add("--accumulate", type=positive, default=1, help="so many batches make one step (%(default)s)")
    add("--learning-rate", type=rate, help="highest learning rate (LoRA 2e-4, full 2e-5)")
    add("--max-length", type=positive, help=f"tokens; longer ones are left out (the model's, at most {LONGEST})")
    add("--packing", action="store_true", help="no padding: the conversations of a batch stand in one row")
    add("--activation-checkpointing", action="store_true", help="less memory, a third more computing")
    add("--chat-template", help="file with a chat template, where the base has none or a worse one")
    add("--seed", type=int, default=1337, help="of adapter and order (%(default)s)")
    add("--checkpoint-every", type=positive, help="steps; default: by time alone")
    add("--keep", type=positive, default=3, help="checkpoints that stay (%(default)s)")
    return Settings(**vars(parser.parse_args(arguments)))


def share(text: str) -> float:
    """A number between 0 and 1."""
    value = rate(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be below 1, it is {text}")
    return value


def train(settings: Settings, world: World) -> None:
    """The whole program: inputs, model, measure, loop, measure, publish."""
    folder = find(settings.base, "--base")
    check_directory(folder, HUGGINGFACE.name)
    config, tokenizer = AutoConfig.from_pretrained(folder), base.load_tokenizer(folder, settings.chat_template)
    base.check(config, settings.adapter, world)
    learnt, held_out = load_data(settings, tokenizer, config)
    torch.manual_seed(settings.seed)  # the adapter's first numbers
    model = base.load(folder, settings.adapter, world)
    trainer, factory = make_trainer(model, learnt, settings, world, base.fingerprint(folder))
    before = base_loss(
        f"{base.fingerprint(folder)} {held_out.digest}", lambda: measure(trainer.model, held_out, settings, world)
    )
    log.info("held-out loss of the base: %.4f", before)
    trainer.train(resume_from_checkpoint=factory.checkpoint)
    tuned = base.finished(trainer.model, config, world)
    after = measure(tuned, held_out, settings, world)
    log.info("held-out loss: %.4f, of the base %.4f", after, before)
    if world.rank == 0:
        losses = {"heldOutLoss": round(after, 4), "baseHeldOutLoss": round(before, 4)}
        counts = {"conversations": learnt.conversations, "heldOutConversations": held_out.conversations}
        path = export_huggingface(tuned.to(causal.own_type(config)), tokenizer, metrics={**losses, **counts})
        log.info("exported to %s", path)
        factory.report(**losses)


def load_data(settings: Settings, tokenizer: Any, config: Any) -> tuple[chat.Examples, chat.Examples]:
    """What is learnt and what is held out."""
    conversations = chat.read(find(settings.data, "--data"))
    if settings.hold_out is None:
        parts = chat.split(conversations, settings.hold_out_share)
    else:
        parts = chat.split_from(conversations, chat.read(find(settings.hold_out, "--hold-out")))
        if parts.dropped:
            log.info("%d conversations are not trained on: their questions are in the hold-out", parts.dropped)
    context = getattr(config, "max_position_embeddings", None) or LONGEST
    longest = settings.max_length or min(context, LONGEST)
    if longest > context:
        raise BadInputError(f"--max-length {longest} is more than the {context} tokens that the model can read")
    learnt, held_out = (chat.Examples(tokenizer, part, longest) for part in (parts.train, parts.held_out))
    for name, part in (("to learn from", learnt), ("held out", held_out)):
        left_out = f", {part.left_out} left out: longer than {longest} tokens" if part.left_out else ""
        log.info("%s: %d conversations, %d tokens%s", name, part.conversations, part.tokens, left_out)
    return learnt, held_out


def make_trainer(
    model: Any, learnt: chat.Examples, settings: Settings, world: World, fingerprint: str
) -> tuple[Trainer, FactoryCallback]:
    """transformers' Trainer, and what ties it to the factory. Raises CheckpointError: see `FactoryCallback`."""
    gpu = world.device.type == "cuda"
    learning_rate = settings.learning_rate or LEARNING_RATE[settings.full]
    factory = FactoryCallback(
        facts={
            "base": fingerprint,
            "data": learnt.digest,
            "batch": settings.batch * settings.accumulate,
            "learning rate": learning_rate,
            "seed": settings.seed,
        }
    )
    arguments = TrainingArguments(
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
    trainer = Trainer(
        model, arguments, collator(settings.packing), train_dataset=learnt, callbacks=[factory, Lines(factory)]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, factory


class Lines(TrainerCallback):
    """A line of progress, as the callback asks for the loss."""

    def __init__(self, factory: FactoryCallback) -> None:
        self._factory = factory

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss, speed = kwargs["logs"].get("loss"), self._factory.tokens_per_second
        if loss is not None and state.is_world_process_zero:
            log.info(
                "step %d/%d  loss %.3f%s",
                state.global_step,
                state.max_steps,
                loss,
                f"  {speed:,.0f} tokens/s" if speed else "",
            )


def collator(packing: bool) -> Callable[[Sequence[dict[str, list[int]]]], dict[str, Tensor]]:
    """Rows of tokens as a batch: side by side, or one after another with positions that begin anew, by which
    transformers keeps them apart (masking_utils.find_packed_sequence_indices)."""
    flattening: Any = DataCollatorWithFlattening
    return flattening() if packing else pad


def pad(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Rows of one length; what is filled in is neither seen nor learnt."""
    longest = max(len(row["input_ids"]) for row in rows)
    filled = {
        name: torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])
        for name, filler in (("input_ids", 0), ("labels", chat.IGNORED))
    }
    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    return {**filled, "attention_mask": (torch.arange(longest) < lengths).long()}


@torch.no_grad()
def measure(model: Any, examples: chat.Examples, settings: Settings, world: World) -> float:
    """Mean cross entropy, in nats, of the tokens that are learnt; each rank measures its share of the examples."""
    model.eval()
    total = torch.zeros(2, dtype=torch.float64)
    mine = range(world.rank, len(examples), world.size)
    for begin in range(0, len(mine), settings.batch):
        batch = pad([examples[index] for index in mine[begin : begin + settings.batch]])
        inputs = {name: tensor.to(world.device) for name, tensor in batch.items()}
        targets = inputs.pop("labels")[:, 1:].flatten()
        with torch.autocast("cuda", torch.bfloat16, enabled=world.device.type == "cuda"):
            logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
        loss = F.cross_entropy(logits.float(), targets, ignore_index=chat.IGNORED, reduction="sum")
        total += torch.tensor([loss.item(), int((targets != chat.IGNORED).sum())])
    if world.size > 1:
        dist.all_reduce(total)
    return float(total[0] / total[1])


def base_loss(of: str, measured: Callable[[], float]) -> float:
    """The base's loss: as an earlier attempt measured it, else as it is measured now.

    Args:
        of: what tells this base and hold-out from others.
    """
    path, group = Environment.read().checkpoints / BASE_LOSS, Group()
    told = group.broadcast(None if group.rank else path.read_bytes() if path.is_file() else b"")
    known = json.loads(told) if told else {}
    if known.get("of") == of:
        return float(known["loss"])
    loss = measured()
    if group.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"of": of, "loss": loss}))
    return loss


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    quiet: Any = transformers_logging.disable_progress_bar
    quiet()
    settings = parse(arguments)
    world = start()
    if world.rank != 0:
        log.setLevel(logging.WARNING)
    try:
        train(settings, world)
    except (BadInputError, CheckpointError, FactoryError) as error:
        give_up(str(error))


if __name__ == "__main__":
    errors.install()
    main()
    leave()
