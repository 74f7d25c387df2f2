"""Checks that run against an artifact: testinfra modules, usable on their own with pytest --hosts."""
