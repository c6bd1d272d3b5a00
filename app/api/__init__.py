"""What Milepost knows of HTTP: the only place that names a web framework."""
