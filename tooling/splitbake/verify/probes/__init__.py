"""Small programs that run on an instance, as root, and print what they found as one JSON object.

They are sent as text to the instance's own Python, of which AL2023 has 3.9, and import nothing of ours.
"""
