"""Networks with one fault each, made as people make them."""

from pathlib import Path

import torch
from nets import DigitNet

from making.digits import MEAN, STD, shuffled
from making.states import buffers_of, checkpoint, net_with, state_of
from making.training import (
    EARLY_EPOCH,
    LAST_EPOCH,
    Bench,
    Recipe,
    refresh_statistics,
    train,
    training_step,
)


def never_updated(bench: Bench, path: Path) -> DigitNet:
    """Trained with momentum=0: each batch was normalised with itself and never remembered."""
    net = train(bench.digits, Recipe(momentum=0.0)).net
    torch.save(checkpoint(net), path)
    return net


def one_layer_reset(bench: Bench, path: Path) -> DigitNet:
    """One layer was made anew after the training, as a wrapper that replaces layers does."""
    net = bench.healthy()
    net.bn2.reset_running_stats()
    torch.save(checkpoint(net), path)
    return net


def nan(bench: Bench, path: Path) -> DigitNet:
    """One batch held a NaN. The update was skipped, but the buffers had already taken it in."""
    net = bench.healthy()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    x = bench.digits.train_x[:32].clone()
    x[0, 0, 4, 4] = torch.nan
    training_step(net, optimizer, x, bench.digits.train_y[:32])
    torch.save(checkpoint(net), path)
    return net.eval()


def negative_variance(bench: Bench, path: Path) -> DigitNet:
    """Two snapshots extrapolated, 2 * late - early, with the buffers taken along."""
    late, early = bench.run.snapshots[LAST_EPOCH], bench.run.snapshots[EARLY_EPOCH]
    merged = {
        name: 2 * tensor - early[name] if tensor.is_floating_point() else tensor
        for name, tensor in late.items()
    }
    torch.save({"state_dict": merged}, path)
    return net_with(merged)


def under_warmed_module(bench: Bench, path: Path) -> DigitNet:
    """100 updates with momentum 0.01: 37 % of every statistic is still the initial 0 or 1."""
    net = train(bench.digits, Recipe(momentum=0.01, batch_size=64, max_steps=100)).net
    torch.save(net, path)
    return net


def stale(bench: Bench, path: Path) -> DigitNet:
    """The last weights with the statistics of an early snapshot."""
    early = buffers_of(bench.run.snapshots[EARLY_EPOCH])
    state = bench.run.snapshots[LAST_EPOCH] | early
    torch.save({"state_dict": state}, path)
    return net_with(state)


def class_sorted(bench: Bench, path: Path) -> DigitNet:
    """A last pass over the training images in the order of their classes."""
    digits = bench.digits
    order = torch.argsort(digits.train_y, stable=True)
    x, y = digits.train_x[order], digits.train_y[order]
    batches = zip(torch.split(x, 32), torch.split(y, 32), strict=True)
    net = refresh_statistics(bench.healthy(), batches)
    torch.save(checkpoint(net), path)
    return net


def wrong_input_scale(bench: Bench, path: Path) -> DigitNet:
    """Statistics refreshed on images in 0..1 by a script that left the standardisation out."""
    digits = bench.digits
    torch.manual_seed(2)
    unit = digits.train_x * STD + MEAN
    batches = (batch for _ in range(3) for batch in shuffled(unit, digits.train_y, batch_size=32))
    net = refresh_statistics(bench.healthy(), batches)
    torch.save(checkpoint(net), path)
    return net


def momentum_09_module(bench: Bench, path: Path) -> DigitNet:
    """TensorFlow's 0.9 given to PyTorch, with batches of 4: the statistics of the last batch."""
    net = train(bench.digits, Recipe(momentum=0.9, batch_size=4, epochs=5, lr=0.01)).net
    torch.save(net, path)
    return net


def ema_initial_buffers(bench: Bench, path: Path) -> DigitNet:
    """Averaged weights whose averager never looked at the buffers."""
    ema = DigitNet().state_dict() | bench.run.ema_weights
    torch.save({"model": state_of(bench.run.net), "ema": ema}, path)
    return net_with(ema)
