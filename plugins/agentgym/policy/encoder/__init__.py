"""Texts as dense vectors: a small BERT on numpy alone, read from one verified file."""
