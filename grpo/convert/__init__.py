"""Conversions: a dense model to a mixture of experts, grouped keys and values to latents."""
