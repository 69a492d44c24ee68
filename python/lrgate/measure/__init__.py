"""Measuring: fair timing, this machine, processes with their own threads."""
