"""Which layers see the data before anything was normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bncheck.data import open_data
from bncheck.measuring.entries import Entry, entries
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.run import Run

torch.set_num_threads(1)


class Two(nn.Module):
    """An image in two branches and a table; what comes after them sees both."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.wide_bn = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.point, self.point_bn = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)
        self.deep, self.deep_bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.table_bn, self.late_bn = nn.BatchNorm1d(5), nn.BatchNorm1d(9)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        x = self.wide_bn(self.wide(image)) + self.point_bn(self.point(image))
        x = self.deep_bn(self.deep(x.relu())).mean((2, 3))
        late: Tensor = self.late_bn(torch.cat([x, self.table_bn(table)], 1))
        return late


def test_each_input_has_its_layers() -> None:
    torch.manual_seed(0)
    data = open_data([(torch.randn(8, 1, 6, 6), torch.randn(8, 5), torch.zeros(8).long())], None)
    assert entries(Instrumented.of(Two().eval()), data, Run()) == (
        Entry("wide_bn", (0,)),
        Entry("point_bn", (0,)),
        Entry("table_bn", (1,), itself=True),
    )


def test_a_layer_that_nothing_moves_is_not_the_first_for_it() -> None:
    """A layer before it with weight 0 gives its bias alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    nn.init.zeros_(model[1].weight)  # type: ignore[arg-type]
    found = entries(Instrumented.of(model.eval()), open_data([torch.randn(8, 5)], None), Run())
    assert found == (Entry("1", (0,)),)
