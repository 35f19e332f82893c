"""An experiment: what a YAML file, or Python, says becomes objective, data and trainer."""
