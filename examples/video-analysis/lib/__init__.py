"""What the analysis is made of: configuration, models, video."""

import os

# onnxruntime's Linux wheels send usage data unless this is set before they are imported (its Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
