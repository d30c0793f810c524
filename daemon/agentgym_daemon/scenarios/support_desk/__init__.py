"""A support desk: its tools, its customers' requests and the judge of its agents' calls."""
