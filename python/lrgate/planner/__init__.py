"""The planner: finds the fastest network within an error budget."""
