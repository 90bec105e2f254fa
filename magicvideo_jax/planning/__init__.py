"""Programs for machines that are not here: TPU topologies, compiled costs, memory, FLOPs and collectives."""
