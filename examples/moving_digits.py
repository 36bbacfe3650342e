"""A label for each frame of a video: two hand-written digits move through 28 x 28 pixels and bounce off the edges; does
the distance between them shrink ("approaching") or grow ("parting"), or are they on top of each other ("overlapping")?

    python examples/moving_digits.py mnist_5k.csv.gz

The digits are real ones, from a CSV file with 784 pixels and the digit in each line; what moves in the test videos are
digits that no training video shows. The model reads each frame as a row of 784 numbers, from both ends of the video.
"""

import argparse

import numpy as np

from rnnfast.classify import SequenceLabeler

LABELS = np.array(["approaching", "parting", "overlapping"])
SIZE, DIGIT = 28, 14


def read_digits(path):
    """(N, 28, 28) pixels from 0 to 1, and the digits (N,)."""
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, SIZE, SIZE) / np.float32(255), table[:, -1].astype(int)


def videos(digits, count, steps=20, seed=0):
    """(count, steps, 784) frames and (count, steps) labels, the digits drawn from (N, 28, 28) and shown at half their
    size, moving 2 to 4 pixels a frame. A label compares with the frame before, the first one with the next."""
    rng = np.random.default_rng(seed)
    small = digits.reshape(-1, DIGIT, 2, DIGIT, 2).mean(axis=(2, 4))
    shown = small[rng.integers(0, len(small), (count, 2))]
    angle, speed = rng.uniform(0, 2 * np.pi, (count, 2)), rng.uniform(2, 4, (count, 2))
    at = rng.uniform(0, SIZE - DIGIT, (count, 2, 2))
    velocity = speed[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    frames, distances = np.zeros((count, steps, SIZE, SIZE), np.float32), np.zeros((count, steps))
    for t in range(steps):
        for i in range(count):
            for image, place in zip(shown[i], at[i], strict=True):
                draw(frames[i, t], image, place)
        distances[:, t] = np.hypot(*(at[:, 0] - at[:, 1]).T)
        at = at + velocity
        out = (at < 0) | (at > SIZE - DIGIT)
        velocity = np.where(out, -velocity, velocity)
        at = np.where(at < 0, -at, np.where(at > SIZE - DIGIT, 2 * (SIZE - DIGIT) - at, at))
    grows = np.diff(distances, axis=1) > 0
    labels = np.where(distances < DIGIT / 2, 2, np.concatenate([grows[:, :1], grows], axis=1))
    return np.minimum(frames, 1).reshape(count, steps, -1), LABELS[labels]


def draw(frame, image, place):
    """Add an image at a place between the pixels."""
    (y, x), (dy, dx) = place.astype(int), place % 1
    for down, right, part in (
        (0, 0, (1 - dy) * (1 - dx)),
        (0, 1, (1 - dy) * dx),
        (1, 0, dy * (1 - dx)),
        (1, 1, dy * dx),
    ):
        if part:
            frame[y + down : y + down + DIGIT, x + right : x + right + DIGIT] += part * image


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digits", help="CSV: 784 pixels and the digit in each line")
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    digits, classes = read_digits(args.digits)
    later = np.zeros(len(digits), bool)
    for c in range(10):
        later[np.flatnonzero(classes == c)[-100:]] = True
    X, y = videos(digits[~later], args.videos)
    model = SequenceLabeler(
        hidden_size=128,
        bidirectional=True,
        max_epochs=args.epochs,
        dropout=0.3,
        seed=0,
        channels_first=False,
        verbose=True,
    ).fit(X, y)
    X, y = videos(digits[later], 500, seed=1)
    print(f"right in {model.score(X, y):.1%} of the frames of 500 videos of other digits")


if __name__ == "__main__":
    main()
