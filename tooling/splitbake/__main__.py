"""``python -m splitbake``."""

import sys

from splitbake.cli import main

sys.exit(main())
