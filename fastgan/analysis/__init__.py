"""Looking into trained networks: walks and arithmetic between latent points, probes and filters of discriminators."""
