"""Rooms of the bot and of the virtual users: who is in them, joining, leaving, invitations, ban lists."""
