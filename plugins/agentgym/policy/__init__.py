"""The policy as the agent runs it: features, evaluation and snapshots, on numpy alone."""
