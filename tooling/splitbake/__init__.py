"""Bake models into an AMI and code into a slim image, verify both, release them as a pair."""
