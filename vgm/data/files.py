"""Readers for the formats that data sets were first published in.

Every reader checks what it reads and raises ``UserError`` with the file's name.
"""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from vgm.errors import UserError

IDX_IMAGES = 0x00000803
IDX_LABELS = 0x00000801
AMAT_PIXELS = 784
CIFAR_SHAPE = (3, 32, 32)
DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a file that is cut short may raise."""


def read_bytes(path: Path) -> bytes:
    """A file's content, decompressed if its name ends in ``.gz``.

    Args:
        path: File.

    Returns:
        The content.

    Raises:
        UserError: If it cannot be read or is cut short.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged or cut short ({type(error).__name__}); fetch it again"
        ) from error


def read_idx(path: Path, magic: int) -> np.ndarray:
    """An IDX file of unsigned bytes (the format of MNIST).

    Args:
        path: File, plain or gzipped.
        magic: ``IDX_IMAGES`` or ``IDX_LABELS``.

    Returns:
        The array, with the axes that the header states.

    Raises:
        UserError: If the magic number or the size is not what it should be.
    """
    content = read_bytes(path)
    num_axes = magic & 0xFF
    header = 4 * (1 + num_axes)
    if len(content) < header:
        raise UserError(f"{path} is cut short: no IDX header; fetch it again")
    found, *shape = struct.unpack(f">{1 + num_axes}I", content[:header])
    if found != magic:
        raise UserError(
            f"{path} has magic number {found:#010x}, expected {magic:#010x}; it is no "
            f"IDX file of {'images' if magic == IDX_IMAGES else 'labels'}"
        )
    expected = int(np.prod(shape))
    if len(content) - header != expected:
        raise UserError(
            f"{path} holds {len(content) - header} bytes of data, its header says "
            f"{expected}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_amat(path: Path) -> np.ndarray:
    """Binary images as text, 784 zeros and ones a line (Larochelle & Murray 2011).

    Args:
        path: File, plain or gzipped.

    Returns:
        Array [examples, 28, 28, 1] of zeros and ones.

    Raises:
        UserError: If the file is not of that form.
    """
    content = np.frombuffer(read_bytes(path), np.uint8)
    line = 2 * AMAT_PIXELS
    # A last line without a line break is as good as one with it.
    if content.size % line == line - 1:
        content = np.append(content, np.uint8(ord("\n")))
    digits = content[0::2] - np.uint8(ord("0"))
    if content.size == 0 or content.size % line or digits.max() > 1:
        raise UserError(
            f"{path} is not {AMAT_PIXELS} zeros and ones a line; fetch it again"
        )
    return digits.reshape(-1, 28, 28, 1)


def read_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A batch of CIFAR-10 in its binary version: a label and 3072 bytes an image.

    Args:
        path: File, plain or gzipped.

    Returns:
        Images [examples, 32, 32, 3] and labels.

    Raises:
        UserError: If the file is not of that form.
    """
    content = np.frombuffer(read_bytes(path), np.uint8)
    record = 1 + int(np.prod(CIFAR_SHAPE))
    if content.size == 0 or content.size % record:
        raise UserError(
            f"{path} holds {content.size} bytes, no multiple of {record}: no batch of "
            "CIFAR-10's binary version; fetch it again"
        )
    rows = content.reshape(-1, record)
    if rows[:, 0].max() > 9:
        raise UserError(f"{path} has labels above 9; it is no batch of CIFAR-10")
    images = rows[:, 1:].reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, 0].astype(np.int32)


def read_npz(path: Path, *, missing: str = "none") -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, checked.

    Args:
        path: File.
        missing: "nan" where NaN marks a missing number, "none" where it is an error.

    Returns:
        Arrays by name.

    Raises:
        UserError: If it is no such file, holds objects, or a float array has a value
            that is not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except PermissionError as error:
        raise UserError(f"{path} may not be read; change its permissions") from error
    # A .npy under that name is an array, with neither names nor a context.
    except (*DAMAGED, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a readable .npz of plain arrays ({type(error).__name__}); "
            "write it again with numpy.savez"
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path}: {name} is no array; write it with numpy.savez")
        arrays[name] = array = _number(path, name, array)
        if array.dtype.kind != "f":
            continue
        if np.isinf(array).any() or (missing == "none" and np.isnan(array).any()):
            raise UserError(
                f"{path}: {name} holds NaN or infinity; remove those examples, or read "
                "NaN as missing with --data.missing nan"
            )
    return arrays


def _number(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Integers or floats; booleans are bits."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind not in "uif":
        remedy = "expected integers (levels), booleans or floats"
        if name.startswith("y_"):
            remedy = "number the classes from 0 on, or leave it out"
        raise UserError(f"{path}: {name} has dtype {array.dtype}; {remedy}")
    return array


def read_omniglot(path: Path) -> dict[str, np.ndarray]:
    """OMNIGLOT in 28 x 28 as used by Burda et al. (2016), ``chardata.mat``.

    Args:
        path: File.

    Returns:
        ``train`` and ``test`` as levels 0 .. 255, [examples, 28, 28, 1].

    Raises:
        UserError: If the file cannot be read or lacks the arrays.
    """
    import scipy.io

    try:
        content = scipy.io.loadmat(path)
    # SciPy raises many types for a file that is no MAT file.
    except Exception as error:
        raise UserError(
            f"{path} is no MATLAB file ({type(error).__name__}); fetch it again"
        ) from error
    splits = {}
    for split, name in (("train", "data"), ("test", "testdata")):
        if name not in content or content[name].shape[0] != AMAT_PIXELS:
            raise UserError(
                f"{path} lacks {name!r} of shape ({AMAT_PIXELS}, examples); expected "
                "OMNIGLOT's chardata.mat"
            )
        pixels, slack = content[name], 1e-6  # of a computation in single precision
        real = pixels.dtype.kind in "uif"
        if not real or not ((pixels >= -slack) & (pixels <= 1 + slack)).all():
            raise UserError(
                f"{path}: {name!r} must be real numbers from 0 to 1; expected "
                "OMNIGLOT's chardata.mat"
            )
        # Columns are images in Fortran order.
        pixels = pixels.T.reshape(-1, 28, 28).transpose(0, 2, 1)
        levels = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
        splits[split] = levels[..., None]
    return splits
