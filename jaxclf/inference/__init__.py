"""What a classifier says of pictures: predictions, activations, augmented views, heat maps, exported programs."""
