"""`python -m nfkeep.cli` is the command `nfkeep`, for when its script is not on PATH."""

from __future__ import annotations

import sys

from nfkeep.cli import main

sys.exit(main())
