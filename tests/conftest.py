"""What all tests share."""

from __future__ import annotations

import hypothesis

# No stopwatch in tests: a busy machine is not a bug. `print_blob` gives what reproduces a failure.
hypothesis.settings.register_profile("edgevpn", deadline=None, print_blob=True)
hypothesis.settings.load_profile("edgevpn")
