"""The support desk's agent, built with each framework; the gym is attached by one line each."""
