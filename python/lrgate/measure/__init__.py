"""Measurement: interleaved timing, properties of the machine, processes with a set thread count."""
