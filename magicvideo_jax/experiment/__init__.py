"""An experiment: its config, the networks, data and objective that follow from it, and its work folder."""
