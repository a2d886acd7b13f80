"""The user's side: state folder, calling a peer, forwards and pipes. Knows the edges; the command line knows it."""
