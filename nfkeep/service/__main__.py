"""`python -m nfkeep.service` is the command nfkeepd.

It serves where the package is not installed, in a checkout or a virtual environment.
"""

from __future__ import annotations

import sys

from nfkeep.service import main

sys.exit(main())
