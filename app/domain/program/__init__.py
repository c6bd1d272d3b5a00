"""What a program is: its tracks, its timetable, and who may lead a session."""
