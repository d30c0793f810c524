"""`agentgym`: what the daemon knows and does, from a terminal."""

from __future__ import annotations

from agentgym.cli.main import build_parser, main

__all__ = ["build_parser", "main"]
