"""What admins can do, in chat and at the admin socket."""
