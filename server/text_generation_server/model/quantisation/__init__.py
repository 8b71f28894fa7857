"""Linear layers in fewer bits: how they lie on the device, how they are made of numbers, how checkpoints keep them."""
