"""AWS permissions: the least policies of a project, an evaluator of policies, and what an API call needs."""
