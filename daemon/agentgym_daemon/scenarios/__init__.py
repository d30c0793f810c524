"""Worlds with known right answers, in which a policy can be seen to learn."""
