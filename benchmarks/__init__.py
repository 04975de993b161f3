"""What the mock costs: see README.md."""
