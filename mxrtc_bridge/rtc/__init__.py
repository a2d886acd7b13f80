"""The WebRTC edge: the only home of aiortc and aioice.

A data-only peer connection is composed from their ICE, DTLS and SCTP classes, hardened where these trust the network.
"""
