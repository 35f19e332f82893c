"""An experiment: a YAML file, or Python, becomes objective, data and trainer."""
