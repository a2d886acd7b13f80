"""The bot: its rooms, the commands of users, questions back, and announcements."""
