"""Milepost: a FHIR R4 server for intensive outpatient programs."""
