"""Image sets of the TFDS catalogue."""

import warnings
from pathlib import Path

import numpy as np

from vgm.data.arrays import Dataset, Split
from vgm.errors import UserError


def load(name: str, path: Path | None) -> Dataset:
    """An image set prepared by TensorFlow Datasets as array_record; no TensorFlow.

    Args:
        name: Name in the TFDS catalogue.
        path: TFDS data directory; None for its default.

    Returns:
        The data set, its validation split None if TFDS has none.

    Raises:
        UserError: If the name is unknown or the set is not prepared.
    """
    with warnings.catch_warnings():
        # Third-party deprecation notices at import are not this program's to mend.
        warnings.simplefilter("ignore")
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise UserError(
                f"data.name {name!r} is read by tensorflow-datasets, which is not "
                "installed; run: pip install tensorflow-datasets array_record"
            ) from error
        try:
            builder = tfds.builder(name, data_dir=path, file_format="array_record")
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise UserError(
                f"data.name {name!r} is no known data set; use 'digits', 'two-moons', "
                "'checkerboard', a name of the TFDS catalogue (mnist, cifar10, ...), "
                "or give the original files with --data.path"
            ) from error
        splits = builder.info.splits
        if "train" not in splits:
            where = "" if path is None else f" --data_dir {path}"
            raise UserError(
                f"data set {name!r} is not prepared in {builder.data_dir}; run: "
                f"pip install 'vgm[prepare]' && tfds build {name} "
                f"--file_format=array_record{where}"
            )
        try:
            read = {
                split: _read(tfds, name, split, path)
                for split in ("train", "validation", "test")
                if split in splits
            }
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"data set {name!r} in {builder.data_dir} is damaged "
                f"({str(error).splitlines()[0][:80]}); remove it and prepare it again"
            ) from error
    if "test" not in read:
        raise UserError(f"data set {name!r} has no test split; use another")
    train, test = read["train"], read["test"]
    # Images of zeros and ones are binary already; all others have 256 levels.
    levels = 2 if max(train.x.max(), test.x.max()) <= 1 else 256
    return Dataset(train, read.get("validation"), test, levels)


def _read(tfds: object, name: str, split: str, path: Path | None) -> Split:
    source = tfds.data_source(  # pyright: ignore[reportAttributeAccessIssue]
        name, split=split, data_dir=path, download=False
    )
    first = source[0]
    if "image" not in first:
        raise UserError(f"data set {name!r} has no images; use an image data set")
    x = np.empty((len(source), *np.shape(first["image"])), np.uint8)
    labels = np.zeros(len(source), np.int32) if "label" in first else None
    for row, record in enumerate(source):
        if np.shape(record["image"]) != x.shape[1:]:
            raise UserError(
                f"data set {name!r} has images of several sizes; use one of fixed size"
            )
        x[row] = record["image"]
        if labels is not None:
            labels[row] = record["label"]
    return Split(x, labels)
