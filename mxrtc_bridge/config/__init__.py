"""The configuration: read from a file, checked as a whole, handed out as frozen values."""
