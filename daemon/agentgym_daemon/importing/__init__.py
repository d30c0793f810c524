"""Past traces of other tools, turned into experience that is marked as such."""
