"""The files of the Linux guest, as its program expects them."""

from tests.kvmlab.linux_image import DISK_BYTES, DISK_FACTOR, disk


def test_disk_has_its_words_in_order() -> None:
    contents = disk()
    assert len(contents) == DISK_BYTES
    words = [int.from_bytes(contents[place : place + 8], "little") for place in (0, 8, DISK_BYTES - 8)]
    assert words == [0, DISK_FACTOR, (DISK_BYTES // 8 - 1) * DISK_FACTOR % 2**64]
