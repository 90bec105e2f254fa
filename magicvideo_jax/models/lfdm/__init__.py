"""The networks of latent flow diffusion (LFDM, Ni et al. 2303.13744): auto-encoder and U-Net."""
