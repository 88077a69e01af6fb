"""`[tool.bncheck]` in pyproject.toml: found, validated, and handed over as frozen settings."""
