"""What `examples/train_imagenet.py` is made of: options, data, model, checkpoint, the loop, tests."""
