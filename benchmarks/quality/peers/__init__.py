"""The models that ours stand beside: other libraries', and plain references."""
