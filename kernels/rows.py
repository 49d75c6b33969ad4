"""Rows of a tensor taken and added up in one order, where index_select's gradient and index_add use a GPU's atomics.

Axes: T rows there, N rows taken, S sums, D columns.
"""

from torch import Tensor, nn


def take(rows_TD: Tensor, index_N: Tensor) -> Tensor:
    """The rows with these numbers, (N, D), some of them several times."""
    if rows_TD.device.type == "cuda":
        return nn.functional.embedding(index_N, rows_TD)  # whose gradient sorts before it adds
    return rows_TD.index_select(0, index_N)


def add_up(rows_TD: Tensor, index_T: Tensor, sums: int) -> Tensor:
    """For each of the sums (S, D), the rows whose index names it."""
    empty_SD = rows_TD.new_zeros(sums, rows_TD.shape[1])
    if rows_TD.device.type == "cuda":
        return empty_SD.index_put((index_T,), rows_TD, accumulate=True)
    return empty_SD.index_add(0, index_T, rows_TD)
