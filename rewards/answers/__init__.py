"""Reads answers in LaTeX, plain syntax and Unicode, and compares them. Nothing here evaluates code or runs for long."""
