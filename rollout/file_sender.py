"""Weights by a safetensors file that servers read: in this machine's shared memory, or a folder that they see too."""

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from grpo.checkpoint_names import checkpoint_tensors
from grpo.files import full_disk_is_an_answer, passing_folder
from grpo.rollout.server_client import ServerClient

SHARED_MEMORY = Path("/dev/shm")


class FileSender:
    """Writes the weights once for all servers of a run, whose folder is `run`."""

    def __init__(self, folder: str | None, run: Path):
        self._folder = passing_folder("weights", run, _place(folder))

    def hold(self, model: nn.Module) -> None:
        """Write the weights."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint_tensors(model).items()}
        with full_disk_is_an_answer(self._file):
            save_file(tensors, self._file)

    def give(self, client: ServerClient, label: str) -> None:
        """Let a server read them and call them `label`. Raises ServerDown or ServerRefused."""
        client.load(str(self._file), label)

    def close(self) -> None:
        """Take the weights out of memory."""
        self._folder.cleanup()

    @property
    def _file(self) -> Path:
        return Path(self._folder.name) / "weights.safetensors"


def _place(folder: str | None) -> Path | None:
    """The recipe's folder, this machine's shared memory, or the system's folder for temporary files."""
    return Path(folder).resolve() if folder is not None else SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
