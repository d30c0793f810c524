"""Shared by the tests of the integrations."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.plugins.integrations.trees")
