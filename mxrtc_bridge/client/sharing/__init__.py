"""One process an account: the first command that calls holds it, and others use its connections by its socket."""
