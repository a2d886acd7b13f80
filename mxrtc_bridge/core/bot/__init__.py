"""What people write to the bot and what it answers: the words of a message, commands, questions back, replies."""
