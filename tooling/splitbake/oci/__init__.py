"""Images as the OCI specifications have them: packing a layer, putting layers on an image, asking a registry."""
