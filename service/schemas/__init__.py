"""Requests and responses of the HTTP face, apart from each other, so that generated clients are typed."""
