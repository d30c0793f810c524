"""Benchmarks: `agentgym-daemon bench NAME`."""
