"""Encryption in the bridge: its own devices, those of callers, decryption, verification, and the devices' policy."""
