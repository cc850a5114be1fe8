"""Routes of the gateway, one module per noun or verb."""
