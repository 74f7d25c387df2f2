"""``./run demo``: the whole loop on the reference project, in the local cloud."""
