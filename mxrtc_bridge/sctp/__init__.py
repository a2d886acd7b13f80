"""An SCTP association for data channels: RFC 9260 over DTLS (RFC 8261) in the profile of RFC 8831.

Pure: packets, calls and the time go in; packets, events and the next deadline come out. Nothing in here opens a
socket, asks a clock, draws a random number or writes a log. docs/reference/sctp.md says what is implemented.
"""
