"""What must stay true of the house itself: its form, its documents, its migrations."""
