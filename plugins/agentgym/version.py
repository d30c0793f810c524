"""The version of the distribution, without reading package metadata at import."""

from __future__ import annotations

VERSION = "0.1.0"
