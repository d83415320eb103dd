"""What the work costs: floors, the bound behind certified codes, and seconds."""
