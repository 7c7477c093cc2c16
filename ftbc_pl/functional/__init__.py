"""Pure functions on tensors: the mathematics. They take and return tensors and sums, and know no processes."""
