"""Kernel releases."""

from __future__ import annotations

import pytest

from proxyd.rewrite.kernel import KernelRange, KernelRelease, parse_kernel, parse_patch


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("6.12.107+deb13-cloud-arm64", KernelRelease(6, 12)),
        ("7.3", KernelRelease(7, 3)),
        ("5.14.0-503.el9", KernelRelease(5, 14)),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_parse(text: str | None, release: KernelRelease | None) -> None:
    assert parse_kernel(text) == release


def test_order_is_numeric() -> None:
    assert KernelRelease(6, 12) > KernelRelease(6, 7)
    assert str(KernelRelease(6, 12)) == "6.12"


def test_ranges_include_both_ends() -> None:
    span = KernelRange(KernelRelease(6, 3), KernelRelease(6, 12))
    assert [KernelRelease(6, minor) in span for minor in (2, 3, 12, 13)] == [False, True, True, False]
    assert KernelRelease(1, 0) in KernelRange()


@pytest.mark.parametrize(("text", "patch"), [("6.12.107+deb13", 107), ("6.12", None), ("", None), (None, None)])
def test_stable_updates(text: str | None, patch: int | None) -> None:
    assert parse_patch(text) == patch
