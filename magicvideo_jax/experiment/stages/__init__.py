"""What can be trained: one file and one object for each stage."""
