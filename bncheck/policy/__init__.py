"""What a project makes of findings: configuration, policy, baseline."""
