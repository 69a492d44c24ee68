"""What calls report: profiles, phases, quantization, optimization, monitoring, comparisons."""
