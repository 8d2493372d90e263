"""Tests; the tree mirrors the source tree. What the tests share is imported as ``tests.…``."""
