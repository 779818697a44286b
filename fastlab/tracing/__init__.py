"""What a transformers model computes, found by watching it on the meta device."""
