"""Scales and shifts of the features of a table that bring a layer to its statistics.

Features that were prepared one by one, x_j -> a_j x_j + b_j, leave a linear layer

    mean = mean_0 + W delta        var_c = sum_ij W_ci a_i Cov(x_i, x_j) a_j W_cj

with W and the changes of the features' means delta; W is what the means answer to each feature.

So many numbers fit much of whatever happened, and some of it by construction: all that a linear
layer ever saw has means that shifts of the features explain. A fit is judged by how well it
foretells each channel from the others, against what it could have failed to explain.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.fitting import TINY, squares
from bncheck.measuring.moments import Moments

if TYPE_CHECKING:
    from bncheck.measuring.fitting import Floats

#: A few features are looked for one after the other, before all are fitted together.
FEW: Final = 3
#: Of every three numbers that a layer holds, one at least must be left to test the fit by.
_TESTED: Final = 3.0
#: Variances of a linear function of the features are its own to this share.
_LINEAR: Final = 0.02
#: A fit leaves no more of the squares, each channel foretold from the others.
_LEFT: Final = 0.25
#: A few features go before more that leave hardly less.
_TIMES: Final = 2.0
#: So small a share of the squares is as good as nothing.
_NOTHING: Final = 0.01
_STEPS: Final = 60
_SETTLED: Final = 1e-6
#: Features that are fitted in each round, the most hopeful ones.
_HOPEFUL: Final = 3
#: No squares of means, or of log standard deviations.
_NONE: Final = np.zeros(1)
#: Scales from which that of a feature is fitted.
_STARTS: Final = tuple(float(scale) for scale in np.geomspace(1e-4, 1e4, 25))


def free_of(chosen: int, features: int) -> float:
    """Two numbers of each feature and, of a few, which they are."""
    return min(3.0 * chosen, 2.0 * features)


class Table:
    """What a layer that is linear in the features makes of their scales and means."""

    def __init__(self, weights: Floats, cov: Floats, seen: Moments, layer: NormLayer) -> None:
        assert layer.statistics is not None
        self._weights, self._cov = weights, cov
        self._seen = seen
        self._mean, self._var = layer.statistics
        self._sigma = np.sqrt(np.maximum(self._var, TINY))
        self._columns = weights / self._sigma[:, None]
        self._off = (self._mean - seen.mean) / self._sigma
        self._eps = (layer.eps.value or 0.0) + TINY

    @property
    def is_linear(self) -> bool:
        """Whether the weights explain the variances that the layer sees."""
        its, seen = self._its_var(np.ones(len(self._cov))), self._seen.var
        return bool(np.abs(its - seen).max() <= _LINEAR * float(seen.max()))

    def fitted(self) -> tuple[list[int], Floats, Floats] | None:
        """The features, the scales and the changes of their means; few, if they do as well."""
        features = len(self._cov)
        whole = self._left(np.ones(features), np.zeros(features))
        if self._means_left(list(range(features))) > _LEFT * whole:
            return None
        chosen: list[int] = []
        scales, shifts = np.ones(features), np.zeros(features)
        found = []
        while len(chosen) < min(FEW, features - 1):
            begun, places = self._begun(chosen, scales)
            tries = [self._fit([*chosen, j], begun[j]) for j in places]
            best = int(np.argmin([self._left(*one) for one in tries]))
            chosen, (scales, shifts) = [*chosen, places[best]], tries[best]
            found.append((chosen, scales, shifts))
        every = list(range(features))
        if self._is_tested(every):
            found.append((every, *self._fit(every, np.ones(features))))
        left = [self._foretold(*one) for one in found]
        most = min(_LEFT * whole, max(_TIMES * min(left), _NOTHING * whole))
        return next(
            (
                one for one, its in zip(found, left, strict=True)
                if its <= most and its <= self._allowed(one[0], one[1])
            ),
            None,
        )  # fmt: skip

    def _is_tested(self, chosen: list[int]) -> bool:
        """Whether enough numbers are left to test a fit of these features by."""
        numbers = 2 * len(self._mean)
        return (numbers - free_of(len(chosen), len(self._cov))) * _TESTED >= numbers

    def _foretold(self, chosen: list[int], scales: Floats, shifts: Floats) -> float:
        """What is left of each channel that is foretold from the others, squared.

        A least squares fit without it misses it by e / (1 - h), h its leverage (PRESS, Allen 1974).
        """
        if not self._is_tested(chosen):
            return math.inf
        means = (self._off - self._columns @ shifts) / _others(self._columns[:, chosen])
        logs = self._log_left(np.log(scales)) / _others(self._slope(np.log(scales))[:, chosen])
        return squares(means, logs)

    def _allowed(self, chosen: list[int], scales: Floats) -> float:
        """What a fit may leave: chance, and a share of what it could have failed to explain.

        That is, of the variances, what one scale for all features leaves; of the means, which move
        along the columns of W, what they move along those that are not fitted.
        """
        untouched = 1 - len(chosen) / len(self._cov)
        of_means, of_logs = self._chance
        of_means = untouched * of_means.sum()
        logs = self._log_left(np.zeros(len(self._cov)))
        tested = untouched * squares(self._off, _NONE) + squares(_NONE, logs - logs.mean())
        foretold = of_logs / _others(self._slope(np.log(scales))[:, chosen])
        beyond = max(0.0, tested - float(of_means + of_logs.sum()))
        return float(of_means + foretold.sum()) + _LEFT * beyond

    @property
    def _chance(self) -> tuple[Floats, Floats]:
        """By what variances a sample of right means and log standard deviations is off, each (C,).

        In the layer's standard deviations: Var(m) / (N s^2) and Var(q) / (4 N s^4).
        """
        seen, images = self._seen, max(self._seen.effective_images, 1.0)
        var = seen.var + self._eps
        return seen.var_of_means / var / images, seen.var_of_squares / (4 * var**2) / images

    def _fit(self, chosen: list[int], start: Floats) -> tuple[Floats, Floats]:
        """Least squares: of the means at once, of the log variances by Levenberg and Marquardt."""
        shifts = np.zeros(len(self._cov))
        shifts[chosen] = np.linalg.lstsq(self._columns[:, chosen], self._off)[0]
        logs, damping = np.log(start), 1.0
        if len(chosen) == len(self._cov):
            logs = logs + 0.5 * np.median(np.log(self._var + self._eps) - np.log(self._its(logs)))
        left = self._log_left(logs)
        for _ in range(_STEPS):
            slope = self._slope(logs)[:, chosen]
            gram = slope.T @ slope
            gram += damping * np.diag(np.diag(gram) + TINY)
            tried = logs.copy()
            tried[chosen] -= np.clip(np.linalg.solve(gram, slope.T @ left), -2, 2)
            its = self._log_left(tried)
            better = float(its @ its) < float(left @ left)
            done = better and float(left @ left) - float(its @ its) < _SETTLED * float(left @ left)
            logs, left = (tried, its) if better else (logs, left)
            damping = damping / 3 if better else damping * 4
            if done or damping > 1e8:
                break
        return np.exp(logs), shifts

    def _begun(self, chosen: list[int], scales: Floats) -> tuple[Floats, list[int]]:
        """For each further feature the scales that leave least, and the most hopeful features.

        With w_j and c_j a channel's weight of feature j and what it shares with the others, that
        feature on a scale a makes its variance rest + 2 a w_j c_j + a^2 w_j^2 Cov_jj.
        """
        scaled, own = self._weights * scales, self._weights**2 * np.diag(self._cov)
        shared = self._weights * (scaled @ self._cov) - scales * own
        rest = np.sum(scaled * (scaled @ self._cov), axis=1, keepdims=True)
        rest = rest - 2 * scales * shared - scales**2 * own
        starts = np.array(_STARTS)
        its = rest[..., None] + 2 * shared[..., None] * starts + own[..., None] * starts**2
        asked = (self._var + self._eps)[:, None, None]
        logs = 0.5 * np.log(np.maximum(its + self._eps, TINY) / asked)
        left = np.sum(logs**2, axis=0)
        begun = np.tile(scales, (len(scales), 1))
        np.fill_diagonal(begun, starts[left.argmin(axis=1)])
        others = [j for j in range(len(scales)) if j not in chosen]
        off = [left[j].min() + self._means_left([*chosen, j]) for j in others]
        return begun, [others[place] for place in np.argsort(off, kind="stable")[:_HOPEFUL]]

    def _means_left(self, chosen: list[int]) -> float:
        """The squares of the means that no shifts of these features explain."""
        columns = self._columns[:, chosen]
        rest = self._off - columns @ np.linalg.lstsq(columns, self._off)[0]
        return squares(rest, _NONE)

    def _its(self, logs: Floats) -> Floats:
        return self._its_var(np.exp(logs)) + self._eps

    def _log_left(self, logs: Floats) -> Floats:
        return np.asarray(0.5 * np.log(self._its(logs) / (self._var + self._eps)))

    def _slope(self, logs: Floats) -> Floats:
        """How half the log variances, (C,), change with the log scales, (F,)."""
        scaled = self._weights * np.exp(logs)
        return np.asarray(scaled * (scaled @ self._cov) / self._its(logs)[:, None])

    def _left(self, scales: Floats, shifts: Floats) -> float:
        return squares(self._off - self._columns @ shifts, self._log_left(np.log(scales)))

    def _its_var(self, scales: Floats) -> Floats:
        scaled = self._weights * scales
        return np.asarray(np.sum((scaled @ self._cov) * scaled, axis=1))


def _others(slope: Floats) -> Floats:
    """How much of itself each fitted number, (C,), owes to the others: 1 - h of a slope (C, F)."""
    leverage = np.einsum("cf,fc->c", slope, np.linalg.pinv(slope))
    return np.asarray(np.maximum(1 - leverage, TINY))
