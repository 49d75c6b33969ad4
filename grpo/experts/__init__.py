"""Mixtures of experts: what their routers choose, how even the load is, and how it is kept so."""
