"""DuckDB, derived from the log and from nothing else; all SQL of the daemon lives here."""
