"""Plans for machines that are not present: TPU topologies, compiled programs, memory, FLOPs and
collectives.
"""
