"""Marks of tests."""

from __future__ import annotations

import os

import pytest

long = pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="it waits for a minute or so: LONG_TESTS=1 runs it")
