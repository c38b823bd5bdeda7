"""One file a GAN; ``base.py`` holds the contract. The registry finds these files by name: nothing is imported here."""
