"""The daemon's gRPC surface: parse, call, reply; nothing else is decided here."""

from __future__ import annotations
