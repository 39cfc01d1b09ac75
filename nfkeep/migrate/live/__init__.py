"""The move of a running host: what is there, the plan, the cut-over, the way back."""
