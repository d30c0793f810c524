"""Benchmark of a store that grows: a long history, and what is measured at each size."""

from __future__ import annotations
