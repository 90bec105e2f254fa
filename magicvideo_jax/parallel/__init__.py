"""Where arrays live: the mesh, rules for parameters, placement of batches."""
