"""Prompts in, result files out."""
