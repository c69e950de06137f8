"""Bad input, and what it must lead to: one line, exit code 2, nothing written."""

import re

import train

from vgm import configs


def damage(folder):
    """Every file in it, however deep."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")


def check_one_line(tmp_path, capsys, arguments, message):
    if callable(arguments):
        arguments = arguments(tmp_path)
    if arguments and arguments[0] in configs.PRESETS:
        arguments = [*arguments, "--run-dir", str(tmp_path / "run")]
    assert train.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err
    assert not (tmp_path / "run" / "config.json").exists()
