"""Sampling completions: engines, and the loop that turns problems into groups."""
