"""Directories and files that others may fetch."""
