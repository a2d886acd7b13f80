"""Directories that others may put files into: partial files, quota, receipts, publishing."""
