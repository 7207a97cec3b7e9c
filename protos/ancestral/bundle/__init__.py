"""What the parts know of a bundle alike: pure functions over its manifest."""
