"""The classic VAE on MNIST in plain PyTorch, to measure `vae-mnist` against.

Same network, objective and optimiser: 784-400-20-400-784, ReLU, Bernoulli on grey
pixels, Adam 1e-3, batch 128, test -ELBO after every epoch. Two ways to feed it:

    loader   a DataLoader over PIL images converted one by one, as tutorials do
    memory   slices of one tensor, shuffled once an epoch

    python scripts/baselines/pytorch_vae.py FOLDER --feed loader --epochs 10

FOLDER holds MNIST's IDX files. Needs torch, numpy and pillow, and nothing of vgm.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


def read_images(path):
    """Images of an IDX file."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)


class PILImages(Dataset):
    """Each item through PIL and a float tensor."""

    def __init__(self, images):
        self.images = torch.from_numpy(images.copy())

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = Image.fromarray(self.images[index].numpy())
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
        return pixels.view(28, 28, 1).permute(2, 0, 1).contiguous().float().div(255)


class VAE(nn.Module):
    """Encoder and decoder with one hidden layer each."""

    def __init__(self):
        super().__init__()
        self.hidden_in = nn.Linear(784, 400)
        self.mean = nn.Linear(400, 20)
        self.log_variance = nn.Linear(400, 20)
        self.hidden_out = nn.Linear(20, 400)
        self.out = nn.Linear(400, 784)

    def negative_elbo(self, x):
        """Sum of -ELBO over a batch."""
        x = x.view(-1, 784)
        h = F.relu(self.hidden_in(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        p = torch.sigmoid(self.out(F.relu(self.hidden_out(z))))
        bce = F.binary_cross_entropy(p, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean**2 - log_variance.exp())
        return bce + kl


class MemoryBatches:
    """Slices of a tensor in memory."""

    def __init__(self, images, batch_size, shuffle):
        self.x = torch.from_numpy(images.copy()).float().div(255)
        self.batch_size, self.shuffle = batch_size, shuffle

    def __iter__(self):
        n = len(self.x)
        order = torch.randperm(n) if self.shuffle else torch.arange(n)
        for start in range(0, n, self.batch_size):
            yield self.x[order[start : start + self.batch_size]]


def main():
    """Train, test after every epoch, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--feed", choices=["loader", "memory"], default="loader")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(args.seed)
    train_images = read_images(args.folder / "train-images-idx3-ubyte.gz")
    test_images = read_images(args.folder / "t10k-images-idx3-ubyte.gz")
    if args.feed == "loader":
        train = DataLoader(PILImages(train_images), batch_size=128, shuffle=True)
        test = DataLoader(PILImages(test_images), batch_size=128)
    else:
        train = MemoryBatches(train_images, 128, shuffle=True)
        test = MemoryBatches(test_images, 128, shuffle=False)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(args.epochs):
        model.train()
        for x in train:
            optimizer.zero_grad()
            loss = model.negative_elbo(x)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            total = sum(model.negative_elbo(x).item() for x in test)
    print(
        json.dumps(
            {
                "feed": args.feed,
                "epochs": args.epochs,
                "seconds": round(time.perf_counter() - start, 1),
                "test_negative_elbo_nats": total / len(test_images),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
