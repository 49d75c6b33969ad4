"""The stages of a recipe. Each reads a model and leaves a model or figures."""
