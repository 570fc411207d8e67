"""`python -m s2s_infer` is the command `s2s-infer`."""

import sys

from .cli import main

sys.exit(main())
