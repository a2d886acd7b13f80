"""Local byte streams: TCP and unix sockets, connected or accepted, and standard input and output."""
