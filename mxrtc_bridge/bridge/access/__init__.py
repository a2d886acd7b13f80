"""Rights in force: grants from the configuration and from admins, rooms, and ban lists, asked for at every use."""
