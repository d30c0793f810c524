"""Policy versions: kept, promoted, rolled back, pinned, and pushed to running agents."""

from __future__ import annotations
