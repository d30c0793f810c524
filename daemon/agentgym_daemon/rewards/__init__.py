"""Rewards: found a trajectory for, checked, deduplicated, defaulted, taken back."""

from __future__ import annotations
