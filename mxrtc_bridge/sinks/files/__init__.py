"""Files that are received and served: drop boxes, shares, the user's own folders, and single files as byte streams."""
