"""Checkpoints of safetensors, read and written tensor by tensor, and what lies beside them in a model folder."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

from grpo.loading import LOADING_FAILED
from grpo.pretrained import load_tokenizer, special_tokens_alone
from grpo.types import UserError, one_line

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2 << 30
"""Of a file at most: that much is in memory at a time."""


def local_folder(src: str) -> Path:
    """The folder of a model, fetched first when `src` is the name of a hub model. Raises UserError when it can't be."""
    if Path(src).is_dir():
        return Path(src)
    try:
        return Path(snapshot_download(src, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
    except LOADING_FAILED as error:
        reason = one_line(error).rstrip(".")
        raise UserError(f"{src}: can't be fetched: {reason}: check the network, or give a folder") from None


def check_new(out: Path) -> None:
    """Raise UserError when `out` holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: expected a new or empty folder, got one that holds something: choose another")


class Tensors:
    """The tensors of a model folder by name; one is read when it is asked for.

    Raises:
        UserError: the folder has no safetensors, or a tensor can't be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files = _files(folder)

    def names(self) -> list[str]:
        """All of them, but the tables of rotary frequencies that old checkpoints hold."""
        return [name for name in self._files if not name.endswith("rotary_emb.inv_freq")]

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._files:
            raise UserError(f"{self.folder}: expected a tensor {name}, got none: choose a complete checkpoint")
        try:
            with safe_open(self._files[name], "pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._files[name]}: can't be read: {error}: fetch the file again") from None
        return tensor


def _files(folder: Path) -> dict[str, Path]:
    """Which file each tensor is in."""
    if (folder / INDEX).is_file():
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / Path(file).name for name, file in weight_map.items()}
    file = folder / ONE_FILE
    if not file.is_file():
        raise UserError(f"{folder}: expected {ONE_FILE} or {INDEX}, got neither: save the model as safetensors")
    try:
        with safe_open(file, "pt") as opened:
            return dict.fromkeys(opened.keys(), file)
    except SafetensorError as error:
        raise UserError(f"{file}: can't be read: {error}: fetch the file again") from None


class TensorWriter:
    """Tensors for a model folder, written whenever `limit` bytes have come together; `close` makes them loadable."""

    def __init__(self, folder: Path, limit: int = SHARD_BYTES):
        self.folder, self.limit = folder, limit
        self.parameters = 0
        self._waiting: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor, which must not change any more."""
        self._waiting[name] = tensor.contiguous()
        self.parameters += tensor.numel()
        self._bytes += tensor.nbytes
        if sum(waiting.nbytes for waiting in self._waiting.values()) >= self.limit:
            self._flush()

    def _flush(self) -> None:
        save_file(self._waiting, self._shard(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(list(self._waiting))
        self._waiting = {}

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number}.safetensors"

    def close(self) -> None:
        """Write the rest, and give the files the names that transformers looks for."""
        if self._waiting:
            self._flush()
        count = len(self._shards)
        if count == 1:
            self._shard(0).rename(self.folder / ONE_FILE)
            return
        names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
        for number, name in enumerate(names):
            self._shard(number).rename(self.folder / name)
        weight_map = {tensor: name for name, held in zip(names, self._shards, strict=True) for tensor in held}
        index = {"metadata": {"total_size": self._bytes}, "weight_map": weight_map}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def write_surroundings(src: Path, folder: Path, config: PreTrainedConfig) -> None:
    """Config, tokenizer and the special tokens of generation; nothing else that a generation config may say."""
    tokenizer = load_tokenizer(str(src))
    published = GenerationConfig.from_pretrained(src) if (src / "generation_config.json").is_file() else None
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    special_tokens_alone(published, tokenizer).save_pretrained(folder)
