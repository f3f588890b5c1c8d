"""Files that others wrote: a pipe, a socket, a device or a folder is named and never waited for."""

import os
import socket

import pytest

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text, regular


def test_a_regular_file_a_link_to_one_and_nothing_pass(tmp_path):
    (tmp_path / "file").write_text("grün", encoding="utf-8")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link", "nothing"):
        assert regular(tmp_path / name) == tmp_path / name
    assert read_text(tmp_path / "link", 5) == "grün"
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing", 5)


def test_what_is_no_file_is_named_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(tmp_path / "socket"))
    kinds = {"pipe": "named pipe", "link": "named pipe", "socket": "socket", ".": "folder"}
    for name, kind in {**kinds, "/dev/zero": "device"}.items():
        for read in (regular, lambda path: read_text(path, 9)):
            with pytest.raises(NotLoadable, match=f"is a {kind}"):
                read(tmp_path / name)


def test_a_file_beyond_its_bound_is_not_read(tmp_path):
    with (tmp_path / "big").open("wb") as opened:
        opened.truncate(3 * 2**40)  # all hole
    with pytest.raises(NotLoadable, match=r"3,298,534,883,328 bytes: at most 2 MiB"):
        read_text(tmp_path / "big", 2**21)
    assert regular(tmp_path / "big") == tmp_path / "big"
