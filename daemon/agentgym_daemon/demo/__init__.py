"""The demo: three real agents get better at choosing tools while they run."""
