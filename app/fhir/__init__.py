"""What Milepost knows of FHIR R4: no web framework, no program rules."""
