"""What goes wrong when transformers loads something, in one plain sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from grpo.types import UserError, one_line

LOADING_FAILED = (OSError, HFValidationError, SafetensorError, ImportError, LookupError, RuntimeError, ValueError)
"""What transformers raises for a model that is missing, incomplete or not its own."""


def any_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer of any kind. Text is decoded as it is, without tidying of spaces.

    Raises:
        UserError: there is no tokenizer at `path`.
    """
    check_exists(path)
    with said_plainly(path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def check_exists(path: str) -> None:
    """Tell a folder that is not there from the name of a hub model, which has the form owner/name."""
    if Path(path).is_file():
        raise UserError(f"{path}: expected a model folder, got a file: turn a GGUF file into one with grpo import-gguf")
    is_no_hub_name = path.startswith(("/", ".", "~")) or path.count("/") > 1
    if is_no_hub_name and not Path(path).is_dir():
        raise UserError(f"{path}: no such model folder: give an existing folder or the name of a hub model")


@contextmanager
def said_plainly(path: str, what: str) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be loaded into one sentence. Raises UserError."""
    try:
        yield
    except LOADING_FAILED as error:
        if Path(path).is_dir():
            advice = "give a folder that save_pretrained wrote, with config.json, *.safetensors and tokenizer.json"
        else:
            advice = "check the name and the network, or download the model and give its folder"
        raise UserError(f"{path}: no usable {what} here: {one_line(error).rstrip('.')}: {advice}") from None
