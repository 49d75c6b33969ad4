"""What vLLM's worker is taught: to take newer weights of the policy, all of them and rightly packed.

vLLM adds the methods of `PolicyWeights` to its worker, in this process and in a server alike (`worker_extension_cls`).

Its own reload is right on a GPU. On a CPU it leaves two things as they were, without an error: the packed copy of an
output layer that is tied to the embedding, and the packed copies of experts.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grpo.rollout.ipc_handles import handles_from_json

if TYPE_CHECKING:

    class _Worker:
        """The part of vLLM's worker that is used here."""

        device: torch.device
        model_config: Any
        vllm_config: Any

        def get_model(self) -> nn.Module: ...

        def reload_weights(self, **arguments: Any) -> None: ...

        def update_weights(self, update_info: dict[str, Any]) -> None: ...
else:
    _Worker = object


class PolicyWeights(_Worker):
    """Methods of the worker."""

    def load_policy(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take weights by the names that `save_pretrained` writes."""
        model = self.get_model()
        packed = self.device.type == "cpu"
        if packed:
            forget_expert_kernels(model)
        self.reload_weights(weights_iterator=iter(weights))
        if packed:
            tie_again(model)

    def describe_policy(self) -> dict[str, Any]:
        """What a trainer must know before it uses a server that others started."""
        return {
            "dtype": str(self.model_config.dtype).removeprefix("torch."),
            "longest": self.model_config.max_model_len,
            "concurrent": self.vllm_config.scheduler_config.max_num_seqs,
            "transfer": getattr(self.vllm_config.weight_transfer_config, "backend", "file"),
            "gpu": str(torch.cuda.get_device_properties(self.device).uuid) if self.device.type == "cuda" else None,
        }

    def update_by_handles(self, update: dict[str, Any]) -> None:
        """As vLLM's `update_weights` of its engine `ipc`, with handles that came as JSON and not as a pickle."""
        self.update_weights({**update, "ipc_handles": handles_from_json(update["ipc_handles"])})

    def load_policy_file(self, path: str) -> None:
        """Take the weights in a safetensors file of this machine, such as one in shared memory."""
        from safetensors.torch import load_file

        self.load_policy(load_file(path).items())


def forget_expert_kernels(model: nn.Module) -> None:
    """Let the reload pack the experts anew. Only on a CPU: on a GPU this would break captured graphs."""
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def tie_again(model: nn.Module) -> None:
    """Point an output layer without weights of its own at the newly loaded embedding, and pack it again."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    tables = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    embeddings = [m for m in tables if not isinstance(m, ParallelLMHead)]
    for head in (m for m in tables if isinstance(m, ParallelLMHead)):
        if model.config.tie_word_embeddings and embeddings:  # type: ignore[union-attr]
            head.weight = embeddings[0].weight
            head.quant_method.process_weights_after_loading(head)
