"""What can be asked of a model, as data, and the clips made of it: the command line and the page share both."""
