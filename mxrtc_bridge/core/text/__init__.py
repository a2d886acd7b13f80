"""Texts that people read or type: what is safe to show, durations, and patterns with wildcards."""
