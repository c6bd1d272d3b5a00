"""Who is in a program: conditions, episodes, levels of care, groups."""
