"""What a recipe may say about the engine that samples: which one, its memory, its servers, and its check."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from grpo.mtp_settings import SpeculativeSettings, speculative_of_a_word
from grpo.settings import Count, Positive, Settings, Share, Temperature, one_of

UNCORRECTABLE = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
"""Options of samplers after which a token's probability is no longer the policy's."""


class CheckSettings(Settings):
    """Fixed prompts that the engine continues after every push of weights, each token judged by the learner too."""

    sequences: Count = Field(2, description="prompts of the check")
    tokens: Count = Field(4, description="new tokens of each")
    tolerance: Positive | None = Field(
        None, description="nats: the largest gap in float32, the mean gap in bfloat16; left out, by dtype"
    )


class VllmSettings(Settings):
    """How vLLM runs."""

    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: the learner's precision")
    lora: Literal["auto", "adapter", "merged"] = Field(
        "auto", description="push LoRA adapters alone, or merged copies; auto: alone where vLLM can serve them"
    )
    eager: bool | None = Field(None, description="without compiled graphs; left out: on a CPU, where they start slowly")
    kv_cache_gb: Positive | None = Field(
        None,
        description="keys and values; left out: for max_concurrent completions, on a GPU what memory_share leaves",
    )
    memory_share: Annotated[Share, Field(gt=0)] = Field(0.4, description="of a GPU's memory, weights included")
    sleep_level: Literal[0, 1, 2] = Field(
        1, description="on a GPU, while the learner works: 1 moves the weights to host memory, 2 drops them, 0 stays"
    )


class ServerSettings(Settings):
    """Servers that sample: `count` of them started here, or those that `grpo serve` started at `urls`."""

    count: Count | None = None
    urls: list[str] | None = Field(None, min_length=1)
    tensor_parallel: Count = Field(1, description="GPUs of a server that is started here")
    folder: str | None = Field(
        None, description="where servers read new weights; left out, this machine's shared memory"
    )
    transfer: Literal["auto", "file", "ipc", "nccl"] = Field(
        "auto",
        description="how weights reach servers; ipc: on the learner's own GPU, nccl: on other GPUs, auto: by device",
    )
    key_env: str = Field("GRPO_SERVER_KEY", description="the environment variable that holds the key of `urls`")
    deadline_s: Positive = Field(
        60.0, description="seconds without a sign of life, such as a completion, before a server counts as hung"
    )
    start_s: Positive = Field(600.0, description="seconds that a server may take to start")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        one_of(self, "count", "urls")
        where_started = {"tensor_parallel", "start_s"} & self.model_fields_set
        if self.urls is not None and where_started:
            raise ValueError(f"{min(where_started)} belongs to count: servers at urls have started already")
        if self.folder is not None and self.transfer in ("ipc", "nccl"):
            raise ValueError(f"folder belongs to transfer: file, got transfer: {self.transfer}")
        if self.transfer == "ipc" and self.tensor_parallel > 1:
            raise ValueError(f"transfer: ipc reaches one GPU, got tensor_parallel {self.tensor_parallel}: use nccl")
        if self.count is not None and "key_env" in self.model_fields_set:
            raise ValueError("key_env belongs to urls: servers that are started here get a key of their own")
        return self


class EngineSettings(Settings):
    """The engine that samples. auto: vLLM where it is installed, transformers elsewhere."""

    engine: Literal["auto", "transformers", "vllm", "vllm-server"] = "auto"
    max_concurrent: Count = Field(64, description="completions decoded side by side")
    vllm: VllmSettings = VllmSettings()
    servers: ServerSettings | None = Field(None, description="of engine vllm-server")
    check: CheckSettings = CheckSettings()
    speculative: Annotated[SpeculativeSettings | None, BeforeValidator(speculative_of_a_word)] = Field(
        None, description="the policy's layer of multi-token prediction drafts; true: with the defaults"
    )

    @model_validator(mode="after")
    def _drafts_are_the_policys_own(self) -> Self:
        if self.speculative is not None and self.engine not in ("auto", "transformers"):
            raise ValueError(f"speculative belongs to engine transformers, not to engine {self.engine}")
        return self

    @model_validator(mode="after")
    def _servers_belong_to_their_engine(self) -> Self:
        if (self.engine == "vllm-server") != (self.servers is not None):
            raise ValueError("needs servers for engine vllm-server, and only there")
        own = "engine transformers" if self.engine == "transformers" else "speculative" if self.speculative else None
        if own is not None and (self.vllm != VllmSettings() or self.check != CheckSettings()):
            raise ValueError(f"vllm and check belong to engines of vLLM, not to {own}")
        return self

    @model_validator(mode="after")
    def _servers_take_what_they_can(self) -> Self:
        if self.servers is None:
            return self
        given = self.vllm.model_fields_set - (
            {"dtype"} if self.servers.urls else {"dtype", "eager", "kv_cache_gb", "memory_share"}
        )
        if given:
            where = "grpo serve has it" if self.servers.urls else "servers get merged weights and never sleep"
            raise ValueError(f"vllm.{min(given)} does nothing with these servers: {where}")
        return self


class RolloutSettings(EngineSettings):
    """How completions are sampled for training."""

    temperature: Temperature = Field(1.0, description="the learner's logprobs use it too")
    max_new_tokens: Count = 256
    stop: list[str] = Field([], description="texts that end a completion")

    @model_validator(mode="before")
    @classmethod
    def _samples_are_the_policys(cls, given: Any) -> Any:
        for key in UNCORRECTABLE:
            if isinstance(given, dict) and key in given:
                raise ValueError(
                    f"{key} is not for training: what it changes about a token's probability, the loss cannot undo; "
                    "leave it out, temperature and stop are what a rollout may set"
                )
        return given
