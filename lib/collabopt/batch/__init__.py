"""Batches: every notebook of an experiment, or every cell of a sweep."""
