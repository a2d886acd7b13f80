"""End-to-end encryption of one device of one user: Olm, Megolm, cross-signing, lists of devices.

The Olm library is reached through :mod:`mxrtc_bridge.matrix.crypto.binding` and nowhere else. A program starts with
:class:`mxrtc_bridge.matrix.crypto.device.CryptoDevice`.
"""
