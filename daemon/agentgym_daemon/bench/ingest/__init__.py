"""`agentgym-daemon bench ingest`: durable spans per CPU second, memory and disk, and peers."""
