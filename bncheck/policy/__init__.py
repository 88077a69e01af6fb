"""What a project makes of findings: configuration, judging, a baseline."""
