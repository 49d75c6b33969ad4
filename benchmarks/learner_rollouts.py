"""What `learner.py` compares two learners on: a model's folder, and a file of rollouts.

    python benchmarks/learner_rollouts.py record models/smollm2-135m rollouts.json --prompt 200 --new 128
    python benchmarks/learner_rollouts.py take runs/r1_zero_smollm2/01-zero 60 models/smollm2-135m rollouts.json
    python benchmarks/learner_rollouts.py init qwen2.5-1.5b MODEL
    python benchmarks/learner_rollouts.py draw rollouts.json --prompt 512 --new 1024 --groups 4

`record` samples from a model, `take` copies a step of a run, with the groups that it learned nothing from, since TRL
computes them too. `init` and `draw` need no model: weights and tokens do not change how long an update takes.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

GROUPS, COMPLETIONS = 2, 8

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    },
    "qwen2.5-1.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    },
}  # fmt: skip
"""Published shapes: what an update costs depends on them, and not on the weights."""


def init(shape: str, folder: Path) -> None:
    """Leave a model of a published shape with random weights, and a tokenizer of bytes, in a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    kind = {"tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(**SHAPES[shape], **kind)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    vocabulary = {character: i for i, character in enumerate(["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
    print(f"{folder}: {shape}, {sum(p.numel() for p in model.parameters()):,} parameters")


def record(model: str, out: Path, prompt: int, new: int) -> None:
    """Sample groups from the model itself, with prompts of exactly `prompt` tokens, and give them random rewards."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(0)
    groups = []
    for prompt_ids in _prompts(tokenizer, prompt):
        ids = torch.tensor([prompt_ids])
        sampled = policy.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            num_return_sequences=COMPLETIONS, max_new_tokens=new, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        completions = [_until(row[len(prompt_ids) :].tolist(), tokenizer.eos_token_id) for row in sampled]
        rewards = torch.rand(COMPLETIONS)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        groups.append({"prompt": prompt_ids, "completions": completions, "advantages": advantages.tolist()})
    out.write_text(json.dumps({"prompt": prompt, "new": new, "groups": groups}))
    print(f"{out}: completions of {[[len(c) for c in g['completions']] for g in groups]} tokens")


def take(stage: Path, step: int, model: str, out: Path) -> None:
    """The groups of a step, as its samples.jsonl has them; texts become tokens again."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    groups: dict[str, dict[str, Any]] = {}
    for line in (stage / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["step"] != step:
            continue
        prompt = tokenizer(row["prompt"], add_special_tokens=False).input_ids
        group = groups.setdefault(row["problem_id"], {"prompt": prompt, "completions": [], "advantages": []})
        end = [] if row["finish"] == "length" else [tokenizer.eos_token_id]
        group["completions"].append([*tokenizer(row["completion"], add_special_tokens=False).input_ids, *end])
        group["advantages"].append(row["advantage"])
    if not any(any(group["advantages"]) for group in groups.values()):
        sys.exit(f"{stage / 'samples.jsonl'}: step {step} has no samples with signal")
    longest = max(len(ids) for group in groups.values() for ids in group["completions"])
    prompt = max(len(group["prompt"]) for group in groups.values())
    out.write_text(json.dumps({"prompt": prompt, "new": longest, "groups": list(groups.values())}))
    print(f"{out}: {len(groups)} groups, {sum(map(any, (g['advantages'] for g in groups.values())))} with signal")


def draw(out: Path, prompt: int, new: int, groups: int, vocabulary: int) -> None:
    """Random tokens. Lengths are log-normal, median 0.4 * `new`, sigma 0.6, cut at `new`: 1 in 16 is truncated."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(1, vocabulary, (count,), generator=generator).tolist()

    def length() -> int:
        return max(8, min(new, round(0.4 * new * math.exp(0.6 * torch.randn((), generator=generator).item()))))

    drawn = []
    for _ in range(groups):
        rewards = torch.rand(COMPLETIONS, generator=generator)
        advantages = (rewards - rewards.mean()) / rewards.std()
        completions = [ids(length()) for _ in range(COMPLETIONS)]
        drawn.append({"prompt": ids(prompt), "completions": completions, "advantages": advantages.tolist()})
    out.write_text(json.dumps({"prompt": prompt, "new": new, "groups": drawn}))
    print(f"{out}: completions of {[[len(c) for c in g['completions']] for g in drawn]} tokens")


def _prompts(tokenizer: Any, length: int) -> Iterator[list[int]]:
    """Chats about grade-school problems, cut or repeated to the length."""
    sample = Path(__file__).parents[1] / "tests" / "gsm8k_sample.jsonl"
    questions = [json.loads(line)["question"] for line in sample.read_text().splitlines()]
    before, after = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    )
    for number in range(GROUPS):
        words = tokenizer(" ".join(questions[number::GROUPS]), add_special_tokens=False).input_ids
        words *= -(-length // len(words))
        yield [*before, *words[: length - len(before) - len(after)], *after]


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("model")
    recording.add_argument("out", type=Path)
    recording.add_argument("--prompt", type=int, default=200)
    recording.add_argument("--new", type=int, default=128)
    taking = commands.add_parser("take")
    taking.add_argument("stage", type=Path, help="a stage's folder in a run")
    taking.add_argument("step", type=int)
    taking.add_argument("model", help="the folder of the tokenizer")
    taking.add_argument("out", type=Path)
    making = commands.add_parser("init")
    making.add_argument("shape", choices=SHAPES)
    making.add_argument("folder", type=Path)
    drawing = commands.add_parser("draw")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("--prompt", type=int, default=512)
    drawing.add_argument("--new", type=int, default=1024)
    drawing.add_argument("--groups", type=int, default=4)
    drawing.add_argument("--vocabulary", type=int, default=49152)
    given = vars(parser.parse_args())
    does: dict[str, Callable[..., None]] = {"record": record, "take": take, "init": init, "draw": draw}
    does[given.pop("command")](**given)


if __name__ == "__main__":
    main()
