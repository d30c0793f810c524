"""Rollouts of Agent Lightning, as far as they need not import it: `learning.lightning` does.

ledger   queue, rollouts, attempts, spans, resources and workers, in the memory of one process
history  the daemon's snapshot as finished rollouts, and as one file with those that were added
served   a policy version as a resource
queries, store  what a LightningStore does
session  how a rollout asks the policy for tools, and what it leaves behind as spans
report   finished rollouts as OTLP, decisions and rewards for a daemon
"""

from __future__ import annotations
