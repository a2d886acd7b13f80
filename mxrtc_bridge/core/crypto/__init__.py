"""End-to-end encryption as values: key records, device changes, canonical JSON, verification by emoji (SAS)."""
