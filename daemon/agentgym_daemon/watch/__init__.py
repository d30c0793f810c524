"""Watches live policies: rolls back what got worse, and tells people what is odd."""
