"""What no daemon has taken yet, on disk: proto/agentgym/proto/v1/spool.proto is the format."""
