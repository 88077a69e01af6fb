"""A linear model's error surface on features as they are, centred and standardised: wine."""

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_wine

from bncheck.reporting.figures import Curve, Lines

Floats = NDArray[np.float64]
#: Two of the thirteen: alcohol in percent, proline in mg per litre.
TWO = ("alcohol", "proline")
_POINTS = 120


def prepared() -> dict[str, Floats]:
    """178 wines, 13 features, three ways."""
    x = np.asarray(load_wine().data, np.float64)
    centred = x - x.mean(axis=0)
    return {"raw": x, "centred": centred, "standardised": centred / x.std(axis=0)}


def condition(x: Floats) -> float:
    """Of the Hessian of the squared error of w x + b: the second moments of (x, 1)."""
    rows = np.column_stack([x, np.ones(len(x))])
    values = np.linalg.eigvalsh(rows.T @ rows / len(rows))
    return float(values[-1] / values[0])


def two_features(x: Floats) -> Floats:
    """The columns that are drawn."""
    names = list(load_wine().feature_names)
    return x[:, [names.index(name) for name in TWO]]


def contours() -> Lines:
    """One level curve of each surface, in units in which its longer half axis is 1.

    The error of two weights is e' H e, e the distance from the best; its level curve has half axes
    1 / sqrt(lambda).
    """
    curves = []
    for group, (name, x) in enumerate(prepared().items()):
        columns = two_features(x)
        values, vectors = np.linalg.eigh(columns.T @ columns / len(columns))
        angles = np.linspace(0, 2 * math.pi, _POINTS)
        axes = vectors * (np.sqrt(values[0]) / np.sqrt(values))
        places = axes @ np.stack([np.cos(angles), np.sin(angles)])
        wide = math.sqrt(values[1] / values[0])
        curves.append(
            Curve(
                f"{name}: {wide:,.0f} times longer than wide" if wide > 2 else
                f"{name}: {wide:.1f} times longer than wide",
                tuple(round(float(v), 5) for v in places[0]),
                tuple(round(float(v), 5) for v in places[1]),
                group=group,
            )
        )  # fmt: skip
    return Lines(
        "The error surface of a linear model",
        f"A level curve over the weights of {TWO[0]} and {TWO[1]} (wine), without a bias.",
        f"weight of {TWO[0]}", f"weight of {TWO[1]}", tuple(curves),
    )  # fmt: skip
