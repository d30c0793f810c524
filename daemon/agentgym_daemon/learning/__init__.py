"""Learns tool-selection policies: snapshot file in, candidate file and receipt out.

Torch is imported only by `policy_net`, `losses`, `problem`, `train` and `worker`, which run in the
trainer's own process; `supervisor`, `schedule`, `gate` and what they need stay light.
"""

from __future__ import annotations
