"""Pictures of what models learned: functions that return arrays, and functions that draw them."""
