"""What commands of one account say to each other, over the socket of the one that holds the account."""
