"""Drift: monitors whether later data still matches the data to which the gates were fitted."""
