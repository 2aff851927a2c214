"""From a graph of MXNet operators to Relax."""
