"""From the policy to the engine: the one place where an engine gets newer weights."""

from torch import nn

from grpo.rollout.engine import Engine


def push_weights(model: nn.Module, engine: Engine, version: int) -> None:
    """Let the engine sample with the policy's weights, which completions will carry as `version`."""
    engine.load_weights(model, version)
