"""What OpenTelemetry does not do, or does wrongly."""
