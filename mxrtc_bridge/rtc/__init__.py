"""The WebRTC edge: the only home of aioice, OpenSSL's DTLS and, for the bridge's sessions, aiortc.

A data-only peer connection is composed from ICE, DTLS and an SCTP association of our own, hardened where the libraries
trust the network.
"""
