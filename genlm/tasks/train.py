"""Train a GPT-2 from scratch: the loop, its schedule, its checkpoints and its log.

The loop is our own and not `transformers.Trainer`: it is shorter than the settings that would tame
Trainer, prints nothing, and yields one record a report, which a command can show as it likes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import InputError
from genlm.tasks.corpus import END_OF_TEXT, encode_texts, find_texts, read_text, train_bpe

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The size of the model to train."""

    n_layer: int = 6
    n_embd: int = 320
    n_head: int = 5
    n_positions: int = 512
    vocab_size: int = 4096

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd={self.n_embd} cannot be divided among n_head={self.n_head} heads")


@dataclass(frozen=True)
class Schedule:
    """How the model is trained. A step sees `batch_size * n_positions` tokens.

    Evaluations on the way score the first `eval_tokens` tokens of the validation text, the last one all of it.
    """

    max_steps: int = 3000
    batch_size: int = 8
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    dropout: float = 0.0
    eval_every: int = 250
    eval_tokens: int = 32_768
    report_every: int = 10
    seed: int = 0
    bf16: bool = True
    compiled: bool = False

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a hundredth of the peak."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True)
class Report:
    """A line of the log. Losses are mean nats a token; `valid_*` only where an evaluation was made."""

    step: int
    tokens: int
    seconds: float
    loss: float
    learning_rate: float
    tokens_per_s: float
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None


def train(
    corpus: list[Path],
    valid: list[Path],
    out: Path,
    shape: Shape,
    schedule: Schedule,
) -> Iterator[Report]:
    """Train on `corpus`, yield a report now and then, leave in `out` the weights that did best on `valid`.

    `out` becomes a Hugging Face model folder, with the log beside the weights as `log.jsonl`.

    Raises:
        InputError: a text that is missing or not UTF-8, or a corpus shorter than one context.
    """
    import torch

    torch.manual_seed(schedule.seed)
    texts = [read_text(path) for path in find_texts(corpus)]
    held_out = "".join(read_text(path) for path in find_texts(valid))
    tokenizer = train_bpe(texts, shape.vocab_size)
    ids = encode_texts(tokenizer, texts)
    valid_ids = encode_texts(tokenizer, [held_out])[:-1]
    if len(ids) <= shape.n_positions:
        raise InputError(
            f"the corpus has {len(ids)} tokens, fewer than one context of {shape.n_positions}",
            hint="make n_positions smaller",
        )

    model = new_gpt2(shape, schedule.dropout, tokenizer.get_vocab_size(), int(ids[0]))
    forward = torch.compile(model) if schedule.compiled else model
    optimizer = make_optimizer(model, schedule)
    batches = shuffled_windows(ids, shape.n_positions, schedule.batch_size, schedule.seed)
    best = math.inf
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("w") as log:
        for step in range(1, schedule.max_steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step - 1)
            loss = train_step(forward, optimizer, next(batches), schedule)
            evaluates = step % schedule.eval_every == 0 or step == schedule.max_steps
            if not evaluates and step % schedule.report_every:
                continue
            seconds = time.perf_counter() - started
            tokens = step * schedule.batch_size * shape.n_positions
            valid_loss = bits = None
            if evaluates:
                seen = valid_ids if step == schedule.max_steps else valid_ids[: schedule.eval_tokens]
                nats = sliding_nats(model, seen, shape.n_positions, shape.n_positions // 2)
                valid_loss = nats / (len(seen) - 1)
                bits = nats / math.log(2) / len(tokenizer.decode(seen.tolist()).encode())
                if valid_loss < best or step == schedule.max_steps:
                    best = valid_loss
                    save_folder(model, tokenizer, out)
            report = Report(
                step, tokens, seconds, loss.item(), schedule.rate(step - 1), tokens / seconds, valid_loss, bits
            )
            log.write(json.dumps(asdict(report)) + "\n")
            log.flush()
            yield report


def new_gpt2(shape: Shape, dropout: float, vocab_size: int, end_of_text: int) -> Any:
    """A `GPT2LMHeadModel` with fresh weights, ready to train."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=shape.n_positions,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        # The same function as GPT-2's "gelu_new", in one fused kernel; `save_folder` writes the usual name.
        activation_function="gelu_pytorch_tanh",
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    return GPT2LMHeadModel(config).train()


def make_optimizer(model: nn.Module, schedule: Schedule) -> Any:
    """AdamW; only matrices decay, never biases and norms."""
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=True)


def shuffled_windows(ids: Tensor, context: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of windows of `context + 1` ids, for ever. Shape: (batch_size, context + 1).

    An epoch is every window once, in a new order and cut at a new offset.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    pending: list[Tensor] = []
    while True:
        offset = int(torch.randint(min(context, len(ids) - context), (1,), generator=generator))
        starts = torch.arange(offset, len(ids) - context, context)
        for start in starts[torch.randperm(len(starts), generator=generator)].tolist():
            pending.append(ids[start : start + context + 1])
            if len(pending) == batch_size:
                yield torch.stack(pending)
                pending = []


def train_step(forward: Any, optimizer: Any, windows: Tensor, schedule: Schedule) -> Tensor:
    """One step down the gradient of the mean loss of `windows`, which is returned (nats a token)."""
    import torch

    with torch.autocast(windows.device.type, torch.bfloat16, enabled=schedule.bf16):
        logits = forward(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(
        optimizer.param_groups[0]["params"] + optimizer.param_groups[1]["params"], schedule.max_grad_norm
    )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def sliding_nats(model: Any, ids: Tensor, context: int, stride: int, batch_size: int = 16) -> float:
    """Minus the log-probability, in nats, of every id but the first, each seen with a past as long as can be.

    Windows of `context` start every `stride` ids; a window counts only what the one before did not reach,
    so from the second window on every id has at least `context - stride` ids before it.
    """
    import torch

    was_training = model.training
    model.eval()
    starts = range(0, max(1, len(ids) - 1 - context + stride), stride)
    total = 0.0
    with torch.inference_mode():
        for at in range(0, len(starts), batch_size):
            group = starts[at : at + batch_size]
            windows = [ids[start : start + context + 1] for start in group]
            inputs = torch.nn.utils.rnn.pad_sequence([w[:-1] for w in windows], batch_first=True)
            targets = torch.nn.utils.rnn.pad_sequence([w[1:] for w in windows], True, padding_value=-100)
            for row, start in enumerate(group):
                if start:
                    targets[row, : context - stride] = -100
            logits = model(inputs).logits.flatten(0, 1).float()
            total += torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum").item()
    model.train(was_training)
    return total


def save_folder(model: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Write a Hugging Face model folder: config, weights in float16, fast tokenizer."""
    import torch
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=model.config.n_positions,
    )
    fast.save_pretrained(out)
    # The head is tied to the embedding, and would be written a second time.
    own = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    half = {name: value.to(torch.float16) for name, value in own.items()}
    activation, model.config.activation_function = model.config.activation_function, "gelu_new"
    model.save_pretrained(out, state_dict=half)
    model.config.activation_function = activation
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float16"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
