"""``python -m unmask_rt``."""

import sys

from unmask_rt.cli import main

sys.exit(main())
