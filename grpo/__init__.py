"""Reinforcement-learning post-training of language models with GRPO."""

__version__ = "0.1.0"
