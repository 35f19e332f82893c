"""What the YAML of a study means. Nothing here knows a run."""
