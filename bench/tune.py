"""Training beside Hugging Face's Trainer (and peft): one model, one set of conversations, one loss mask, one epoch.

Each way runs in a process of its own, in turn, several rounds; what is reported is the median round. The optimizer is
AdamW (torch's fused one), float32, clipping at 1, a constant learning rate; an optimizer step has about as many tokens
in each way. Refuses to know how `agentlm` reads files: what is timed is steps.

    python -m bench.tune                       # 15 M parameters: full and LoRA
    python -m bench.tune --shape 110m --rounds 1
    python -m bench.tune --only compiled       # ours with compiled layers beside ours without, both warm
"""

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from agentlm.model.random import SHAPES, family_config, write_model
from bench.install import ROOT
from bench.report import write_page
from bench.results import keep_cell

if TYPE_CHECKING:
    from agentlm.tuning.rendering import Rendered

RESULTS = Path(__file__).parent / "results" / "tune-cpu.json"
PAGE = ROOT / "docs" / "benchmarks.md"
WAYS = ("agentlm", "trainer-padded", "trainer-grouped")
"""Ours; Trainer with batches as they come; Trainer with batches of about one length (`group_by_length`)."""
COMPILED = ("agentlm-compiled", "agentlm-warm")
"""Ours with `training.compile`, and without; two steps come before what is timed."""
LENGTH = 1024
PACKS = 4
"""Packs an optimizer step of ours."""
LORA_RANK = 16


@dataclass(frozen=True, slots=True)
class Conversations:
    """Random tokens of random lengths, trained in turns: what a trainer sees of real ones."""

    ids: list[npt.NDArray[np.int32]]
    mask: list[npt.NDArray[np.bool_]]

    @classmethod
    def make(cls, count: int, vocabulary: int, longest: int = LENGTH) -> "Conversations":
        """Log-normal lengths (median 250, a tail to `longest`), turns of 20 to 80 tokens, every second one trained."""
        rng = np.random.default_rng(0)
        ids, masks = [], []
        for length in np.clip(rng.lognormal(np.log(250), 0.8, count), 32, longest).astype(int):
            mask = np.zeros(length, dtype=bool)
            at, trained = 0, False
            while at < length:
                turn = int(rng.integers(20, 80))
                mask[at : at + turn] = trained
                at, trained = at + turn, not trained
            ids.append(rng.integers(0, vocabulary, length).astype(np.int32))
            masks.append(mask)
        return cls(ids, masks)

    @property
    def trained(self) -> int:
        """Trained tokens of all."""
        return int(sum(mask[1:].sum() for mask in self.mask))


@dataclass(frozen=True, slots=True)
class Timed:
    """One epoch in one way."""

    way: str
    seconds: float
    cpu_seconds: float
    """Of the process: what is left when others take the cores."""
    tokens: int
    trained: int
    peak_mib: float
    """Largest resident memory of the process above what it held before the first step, with the model loaded."""
    first_loss: float
    last_loss: float


def rendered_of(conversations: Conversations) -> "Rendered":
    """The conversations as the trainer takes them: of one source, without tags, items and rewards."""
    from agentlm.tuning.rendering import Rendered

    count = len(conversations.ids)
    lengths = [len(ids) for ids in conversations.ids]
    return Rendered(
        ids=np.concatenate(conversations.ids),
        mask=np.concatenate(conversations.mask),
        offsets=np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths))),
        trained=np.asarray([int(mask[1:].sum()) for mask in conversations.mask]),
        source=np.zeros(count, dtype=np.int32),
        tags=np.zeros(count, dtype=np.int32),
        item=np.full(count, -1),
        reward=np.full(count, np.nan),
        tag_sets=((),),
        conversations=(count,),
        left_out=({},),
        examples=(),
    )


def ours(directory: Path, conversations: Conversations, lora: bool, way: str = WAYS[0]) -> Timed:
    """`agentlm`'s trainer over a plan of one epoch."""
    import torch

    from agentlm.model.config import ModelConfig
    from agentlm.model.weights import Checkpoint
    from agentlm.tuning.config import LoraSection, TrainingSection
    from agentlm.tuning.lora import lora_tensors
    from agentlm.tuning.mixture import Stream
    from agentlm.tuning.model import TrainableDecoder, stored_tensors
    from agentlm.tuning.optimizer import make_optimizer
    from agentlm.tuning.parallel import Ranks
    from agentlm.tuning.plan import make_plan
    from agentlm.tuning.trainer import Trainer

    config = ModelConfig.load(directory)
    model = TrainableDecoder(config)
    if lora:
        section = LoraSection(rank=LORA_RANK)
        model.add_lora(section.targets, section.rank, section.alpha / section.rank)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in stored_tensors(config, Checkpoint.open(directory)):
            parameters[name].copy_(tensor)
        for name, tensor in lora_tensors(model, 0, None):
            parameters[name].copy_(tensor)
    rendered = rendered_of(conversations)
    count = len(rendered)
    everything = [Stream(0, np.arange(count), 1.0)]
    plan = make_plan(rendered.lengths, everything, seed=0, batch=PACKS, capacity=LENGTH, drawn=count)
    training = TrainingSection(epochs=1.0, batch=PACKS, schedule="constant", warmup=0.0)
    ranks = Ranks(0, 1, torch.device("cpu"), 1, None, owned=False)
    trainer = Trainer(
        model, make_optimizer(model.named_parameters(), training), training, rendered, plan, ranks
    )
    if way == "agentlm-compiled":
        model.compile_layers()
    for index in range(0 if way == WAYS[0] else min(2, len(plan.steps))):
        trainer.step(index)
    losses: list[float] = []

    def epoch() -> None:
        losses.extend(trainer.step(index).loss for index in range(len(plan.steps)))

    return _timed(way, epoch, losses, conversations)


def trainer(directory: Path, conversations: Conversations, lora: bool, *, grouped: bool) -> Timed:
    """Hugging Face's Trainer over the same conversations, padded to the longest of a batch."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="sdpa"
    )
    model.config.use_cache = False
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear")
        )
    rows = [
        {"input_ids": ids.tolist(), "labels": np.where(mask, ids, -100).tolist(), "length": len(ids)}
        for ids, mask in zip(conversations.ids, conversations.mask, strict=True)
    ]
    mean = sum(len(ids) for ids in conversations.ids) / len(rows)
    at_a_time = max(1, round(LENGTH / mean))

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        longest = max(row["length"] for row in batch)

        def padded(key: str, fill: int) -> Any:
            return torch.tensor([row[key] + [fill] * (longest - row["length"]) for row in batch])

        attention = torch.tensor([[1] * row["length"] + [0] * (longest - row["length"]) for row in batch])
        return {
            "input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": attention
        }  # fmt: skip

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=at_a_time,
            gradient_accumulation_steps=PACKS,
            num_train_epochs=1,
            learning_rate=5e-5,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            adam_beta2=0.95,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=0,
            **_grouping(TrainingArguments, grouped),
        )
        made = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        losses: list[float] = []

        def epoch() -> None:
            made.train()
            losses.extend(line["loss"] for line in made.state.log_history if "loss" in line)

        return _timed("trainer-grouped" if grouped else "trainer-padded", epoch, losses, conversations)


def _grouping(arguments: Any, grouped: bool) -> dict[str, Any]:
    """Batches of about one length, as this version of transformers calls it."""
    if not grouped:
        return {}
    names = arguments.__dataclass_fields__
    if "train_sampling_strategy" in names:
        return {"train_sampling_strategy": "group_by_length", "length_column_name": "length"}
    return {"group_by_length": True, "length_column_name": "length"}


def _timed(way: str, epoch: Callable[[], None], losses: list[float], conversations: Conversations) -> Timed:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    epoch()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Timed(
        way=way,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        tokens=sum(len(ids) for ids in conversations.ids),
        trained=conversations.trained,
        peak_mib=(after - before) / 1024,
        first_loss=losses[0],
        last_loss=losses[-1],
    )


def work(way: str, directory: Path, count: int, threads: int, lora: bool) -> None:
    """One way, once: prints what was timed as JSON on its last line."""
    import torch

    torch.set_num_threads(threads)
    vocabulary = json.loads((directory / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    conversations = Conversations.make(count, vocabulary)
    if way.startswith("agentlm"):
        timed = ours(directory, conversations, lora, way)
    else:
        timed = trainer(directory, conversations, lora, grouped=way == "trainer-grouped")
    print(json.dumps(asdict(timed)))


def compare(
    shape: str,
    directory: Path,
    rounds: int,
    count: int,
    threads: int,
    lora: bool,
    ways: tuple[str, ...] = WAYS,
) -> dict[str, Any]:
    """All ways in turn, so many rounds; medians and how many times the trained tokens a second the first one's are."""
    runs: dict[str, list[Timed]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            command = [
                sys.executable, "-m", "bench.tune", "--worker", way, "--model", str(directory), "--conversations",
                str(count), "--threads", str(threads), *(["--lora"] if lora else []),
            ]  # fmt: skip
            # Threads that spin would measure who else is on the machine; the same for all.
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{way} failed:\n{done.stderr[-3000:]}")
            timed = Timed(**json.loads(done.stdout.splitlines()[-1]))
            runs[way].append(timed)
            name = f"{shape} {'LoRA' if lora else 'full'} round {number + 1} {way}"
            print(
                f"{name}: {timed.trained / timed.seconds:.0f} trained tokens/s, "
                f"{timed.trained / timed.cpu_seconds:.0f} a CPU second, {timed.peak_mib:.0f} MiB, "
                f"loss {timed.first_loss:.3f} to {timed.last_loss:.3f}",
                flush=True,
            )
    medians = {
        way: {
            "trained_tokens_per_second": statistics.median(one.trained / one.seconds for one in own),
            "trained_tokens_per_cpu_second": statistics.median(one.trained / one.cpu_seconds for one in own),
            "peak_mib": statistics.median(one.peak_mib for one in own),
        }
        for way, own in runs.items()
    }
    ratios = {
        f"{kind} against {way}": medians[ways[0]][kind] / medians[way][kind]
        for way in ways[1:]
        for kind in ("trained_tokens_per_second", "trained_tokens_per_cpu_second")
    }
    return {
        "shape": shape,
        "lora": lora,
        "rounds": rounds,
        "conversations": count,
        "tokens": runs[ways[0]][0].tokens,
        "trained_tokens": runs[ways[0]][0].trained,
        "medians": medians,
        "ratios": ratios,
        "runs": {way: [asdict(one) for one in own] for way, own in runs.items()},
    }


def markdown(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of what was measured beside Trainer."""
    lines = [
        "| what | conversations, tokens | agentlm | padded | by length | times | peak memory, MiB | measured on |",
        "| --- | --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for name, cell in sorted(cells.items()):
        medians = [cell["medians"].get(way) for way in WAYS]
        if None in medians:
            continue
        rates = [f"{one['trained_tokens_per_second']:.0f}" for one in medians]
        peaks = ", ".join(f"{one['peak_mib']:,.0f}" for one in medians)
        times = " and ".join(
            f"{cell['ratios'][f'trained_tokens_per_second against {way}']:.2f}" for way in WAYS[1:]
        )
        sizes = f"{cell['conversations']}, {cell['tokens']:,}"
        told = f"{cell['machine']['processor']}, {cell['commit']}"
        lines.append(f"| {name} | {sizes} | {' | '.join(rates)} | {times} | {peaks} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tune", description=__doc__)
    parser.add_argument("--shape", choices=("15m", "110m"), default="15m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=("full", "lora", "compiled"))
    parser.add_argument("--worker", choices=(*WAYS, *COMPILED), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lora", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.model, given.conversations, given.threads, given.lora)
        return
    packages = ("torch", "transformers", "peft", "accelerate")
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(Path(directory), family_config("llama2", SHAPES[given.shape]))
        for kind in (given.only,) if given.only else ("full", "lora"):
            ways = COMPILED if kind == "compiled" else WAYS
            cell = compare(
                given.shape, model, given.rounds, given.conversations, given.threads, kind == "lora", ways
            )
            cell["versions"] = {name: importlib.metadata.version(name) for name in packages}
            cell["load_average"] = os.getloadavg()[1]
            print(json.dumps(cell["ratios"], indent=2))
            held = keep_cell(RESULTS, f"{given.shape} {kind}", cell, given.threads)
            write_page(PAGE, "training", markdown(held["cells"]))


if __name__ == "__main__":
    main()
