"""Sessions and the places in them: made from the timetable, booked, cancelled."""
