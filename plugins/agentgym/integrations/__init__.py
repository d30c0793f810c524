"""One module per framework; each translates its framework's events into the recorder's verbs."""
