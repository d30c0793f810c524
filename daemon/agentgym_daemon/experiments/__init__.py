"""Comparisons of ways to run an agent that may be looked at any time: control group, A/B tests."""
