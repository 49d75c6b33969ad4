"""The predictor in a model's folder, under the names of the released weights: found, loaded and saved beside the trunk.

transformers builds no module for these weights: it passes over them when it loads, so a folder with a predictor loads
there as well as one without.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from grpo.mtp import LAYERS_KEY, OWN_PARTS, predictor_of, predictor_prefix

IGNORED = "_keys_to_ignore_on_load_unexpected"
"""Where a model class of transformers keeps the patterns of weights that it may pass over."""


def stored_parts(path: str, config: Any) -> dict[str, Tensor]:
    """The predictor's own parts by name (`enorm.weight`, ...) in a folder or on the hub; empty where there is none.

    Of several predictors the first is taken, and the log says so.
    """
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None:
        return {}
    wanted = re.compile(rf"(?:^|\.)layers\.{depth}\.((?:{'|'.join(map(re.escape, OWN_PARTS))})\.weight)$")
    places = _places(path)
    found = {match[1]: name for name in places if (match := wanted.search(name))}
    if len(found) < len(OWN_PARTS):
        return {}
    if getattr(config, LAYERS_KEY, 1) > 1:
        logging.getLogger(__name__).warning("%s has several predictors, the first one is used and kept", path)
    return {part: _read(path, places[name], name) for part, name in found.items()}


@contextmanager
def passed_over(config: Any, unused: str) -> Iterator[None]:
    """Let transformers pass over weights that match a pattern without a warning while it loads."""
    kind: Any = AutoModelForCausalLM._model_mapping.get(type(config), PreTrainedModel)
    before = kind.__dict__.get(IGNORED)
    setattr(kind, IGNORED, [*(getattr(kind, IGNORED) or ()), unused])
    try:
        yield
    finally:
        if before is None and kind is not PreTrainedModel:
            delattr(kind, IGNORED)
        else:
            setattr(kind, IGNORED, before)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """As save_pretrained does; with a predictor, the embedding and the head that it shares are written once more.

    That is how the released weights have it, and what other programs look for.
    """
    if predictor_of(model) is None:
        model.save_pretrained(folder)
        return
    prefix, embedding, head = predictor_prefix(model), model.get_input_embeddings(), model.get_output_embeddings()
    shared = {"embed_tokens.weight": embedding.weight, "shared_head.head.weight": head.weight}
    copies = {prefix + name: weight.detach().clone() for name, weight in shared.items()}
    model.save_pretrained(folder, state_dict=model.state_dict() | copies)


def _places(path: str) -> dict[str, str]:
    """The name of the safetensors file of each weight; empty where there are none."""
    if (index := _file(path, SAFE_WEIGHTS_INDEX_NAME)) is not None:
        weights: dict[str, str] = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        return weights
    if (single := _file(path, SAFE_WEIGHTS_NAME)) is None:
        return {}
    with safe_open(single, "pt") as names:
        return dict.fromkeys(names.keys(), SAFE_WEIGHTS_NAME)


def _file(path: str, name: str) -> str | None:
    """A file of a folder or a hub model, None where it has none of that name."""
    found: str | None = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    return found


def _read(path: str, place: str, name: str) -> Tensor:
    with safe_open(cast(str, _file(path, place)), "pt") as weights:
        tensor: Tensor = weights.get_tensor(name)
        return tensor
