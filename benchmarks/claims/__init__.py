"""MagicVideo's claims with numbers: ablations in miniature, and the arithmetic of its network and of VDM's."""
