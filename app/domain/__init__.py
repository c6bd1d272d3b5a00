"""What Milepost knows of intensive outpatient programs: rules and operations come to live here."""
