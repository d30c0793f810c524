"""The text encoders that a daemon can serve, and the files of those that come with it."""

from __future__ import annotations

from types import MappingProxyType

SCHEMAS = MappingProxyType({"none": 1, "default": 2, "minilm": 3})
"""Feature schema by encoder; another file under an old name is a new schema."""
